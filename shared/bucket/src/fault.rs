//! Faults: the one place that knows how errors of the SDK look.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use domain::fault::{PortFault, chain};

/// What a failed call means. A request that S3 will never take is ours to mend; everything else may pass.
pub(crate) fn fault<E>(operation: &'static str) -> impl FnOnce(SdkError<E>) -> PortFault
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    move |cause| match code(&cause) {
        Some("AccessDenied" | "InvalidArgument" | "InvalidRequest" | "MalformedXML" | "NoSuchBucket") => {
            PortFault::Broken { operation, detail: chain(&cause) }
        }
        _ => PortFault::Unavailable { operation, cause: Box::new(cause) },
    }
}

/// S3's own name of an error. An answer without a body, as to HEAD, has none: its status stands for it.
pub(crate) fn code<E: ProvideErrorMetadata>(cause: &SdkError<E>) -> Option<&str> {
    let named = cause.as_service_error().and_then(ProvideErrorMetadata::code);
    named.or_else(|| match cause.raw_response().map(|response| response.status().as_u16()) {
        Some(404) => Some("NoSuchKey"),
        Some(412) => Some("PreconditionFailed"),
        _ => None,
    })
}

/// What could not be built of our own values.
pub(crate) fn broken(operation: &'static str, cause: &dyn Error) -> PortFault {
    PortFault::Broken { operation, detail: cause.to_string() }
}

/// An answer that lacks what S3 promises.
pub(crate) fn incomplete(operation: &'static str, what: &str) -> PortFault {
    PortFault::Broken { operation, detail: format!("the answer has no {what}") }
}
