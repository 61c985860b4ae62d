//! Every way an SQS operation can fail, with the names AWS gives it.

use crate::store::StoreError;

/// Why an operation was refused or failed. Each kind carries AWS's own code (see [`QueueError::code`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    #[error("queue `{0}` does not exist")]
    QueueDoesNotExist(String),
    #[error("queue `{queue}` already exists with another value of `{attribute}`")]
    QueueNameExists { queue: String, attribute: String },
    #[error("unknown attribute `{0}`")]
    InvalidAttributeName(String),
    #[error("`{value}` is not a valid value of attribute `{attribute}`")]
    InvalidAttributeValue { attribute: String, value: String },
    #[error("`{parameter}` is invalid: {reason}")]
    InvalidParameterValue { parameter: String, reason: String },
    #[error("the request must contain the parameter `{0}`")]
    MissingParameter(&'static str),
    #[error("the message contains the character U+{0:04X}, which is outside the allowed set")]
    InvalidMessageContents(u32),
    #[error("`{0}` is not the URL of a queue")]
    InvalidAddress(String),
    #[error("the input receipt handle is invalid")]
    ReceiptHandleIsInvalid,
    #[error("the message is not in flight")]
    MessageNotInflight,
    #[error("the batch request holds no entries")]
    EmptyBatchRequest,
    #[error("the batch request holds {0} entries, more than 10")]
    TooManyEntriesInBatchRequest(usize),
    #[error("the batch request is {0} bytes long, more than 1048576")]
    BatchRequestTooLong(usize),
    #[error("batch entry id `{0}` is repeated")]
    BatchEntryIdsNotDistinct(String),
    #[error("batch entry id `{0}` is not 1 to 80 letters, digits, hyphens and underscores")]
    InvalidBatchEntryId(String),
    #[error("{0}")]
    UnsupportedOperation(String),
    #[error("{0}")]
    ResourceNotFound(String),
    #[error("`{0}` is not an operation of the SQS emulation")]
    InvalidAction(String),
    #[error("the request body is not the expected JSON")]
    Malformed(#[source] serde_json::Error),
    #[error("the queue file failed")]
    Store(#[from] StoreError),
}

impl QueueError {
    pub(super) fn invalid(parameter: &str, reason: impl Into<String>) -> Self {
        Self::InvalidParameterValue { parameter: parameter.into(), reason: reason.into() }
    }

    /// The shape of the JSON protocol, and the code the same error has had since the query protocol.
    /// SDKs match on either.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::QueueDoesNotExist(_) => ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"),
            Self::QueueNameExists { .. } => ("QueueNameExists", "QueueAlreadyExists"),
            Self::InvalidAttributeName(_) => ("InvalidAttributeName", "InvalidAttributeName"),
            Self::InvalidAttributeValue { .. } => ("InvalidAttributeValue", "InvalidAttributeValue"),
            Self::InvalidParameterValue { .. } => ("InvalidParameterValueException", "InvalidParameterValue"),
            Self::MissingParameter(_) => ("MissingRequiredParameterException", "MissingParameter"),
            Self::InvalidMessageContents(_) => ("InvalidMessageContents", "InvalidMessageContents"),
            Self::InvalidAddress(_) => ("InvalidAddress", "InvalidAddress"),
            Self::ReceiptHandleIsInvalid => ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid"),
            Self::MessageNotInflight => ("MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"),
            Self::EmptyBatchRequest => ("EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest"),
            Self::TooManyEntriesInBatchRequest(_) => {
                ("TooManyEntriesInBatchRequest", "AWS.SimpleQueueService.TooManyEntriesInBatchRequest")
            }
            Self::BatchRequestTooLong(_) => ("BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong"),
            Self::BatchEntryIdsNotDistinct(_) => {
                ("BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct")
            }
            Self::InvalidBatchEntryId(_) => ("InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId"),
            Self::UnsupportedOperation(_) => ("UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation"),
            Self::ResourceNotFound(_) => ("ResourceNotFoundException", "ResourceNotFoundException"),
            Self::InvalidAction(_) => ("UnknownOperationException", "InvalidAction"),
            Self::Malformed(_) => ("SerializationException", "SerializationException"),
            Self::Store(_) => ("InternalFailure", "InternalFailure"),
        }
    }

    /// AWS's error code, as boto3 reports it and as batch entries carry it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.names().1
    }

    /// Whether the caller, not the data file, is at fault.
    #[must_use]
    pub fn is_sender_fault(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}
