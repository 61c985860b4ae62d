//! AWS::SQS::Queue.

use super::{Reader, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity::{self, FIFO_SUFFIX};
use crate::model::{Fifo, Queue, Redrive};
use crate::props::Props;

const FIFO_ONLY: [&str; 3] = ["ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"];

impl Reader<'_> {
    pub(super) fn queue(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let name = self.scope.name_of(resource)?;
        let is_fifo = props.flag("FifoQueue")?.unwrap_or(false);
        let fifo = if is_fifo { Some(fifo(&mut props)?) } else { None };
        if let Some(key) = FIFO_ONLY.into_iter().find(|key| props.has(key)) {
            return Err(props.fault(props.line_of(key), key, "needs `FifoQueue: true`"));
        }
        let redrive = match props.child("RedrivePolicy")? {
            None => None,
            Some(mut policy) => {
                let line = policy.line_of("deadLetterTargetArn");
                let dead_letter_queue = target::queue(self.scope, &mut policy, "deadLetterTargetArn")?;
                if dead_letter_queue == name {
                    return Err(policy.fault(line, "deadLetterTargetArn", "is the queue itself"));
                }
                if dead_letter_queue.ends_with(FIFO_SUFFIX) != is_fifo {
                    let kinds = if is_fifo { "FIFO, as its source is" } else { "standard, as its source is" };
                    let what = format!("must be {kinds}, and `{dead_letter_queue}` is not");
                    return Err(policy.fault(line, "deadLetterTargetArn", what));
                }
                let missing = policy.missing("maxReceiveCount");
                let maximum_receive_count = policy.number("maxReceiveCount", 1..=1000)?.ok_or(missing)?;
                policy.finish();
                Some(Redrive { dead_letter_queue, maximum_receive_count })
            }
        };
        self.bundle.queues.push(Queue {
            logical_id: resource.logical_id.clone(),
            arn: identity::arn(self.scope, resource, resource.line)?,
            url: identity::reference(self.scope, resource, resource.line)?,
            name,
            fifo,
            visibility_timeout_secs: props.number("VisibilityTimeout", 0..=43_200)?.unwrap_or(30),
            delay_secs: props.number("DelaySeconds", 0..=900)?.unwrap_or(0),
            retention_secs: props.number("MessageRetentionPeriod", 60..=1_209_600)?.unwrap_or(345_600),
            receive_wait_secs: props.number("ReceiveMessageWaitTimeSeconds", 0..=20)?.unwrap_or(0),
            maximum_message_bytes: props.number("MaximumMessageSize", 1024..=1_048_576)?.unwrap_or(1_048_576),
            redrive,
            line: resource.line,
        });
        props.without_effect(&[
            "KmsDataKeyReusePeriodSeconds",
            "KmsMasterKeyId",
            "QueueName",
            "RedriveAllowPolicy",
            "SqsManagedSseEnabled",
            "Tags",
        ]);
        props.finish();
        Ok(())
    }
}

fn fifo(props: &mut Props<'_>) -> Result<Fifo> {
    let content_based_deduplication = props.flag("ContentBasedDeduplication")?.unwrap_or(false);
    let line = props.line_of("FifoThroughputLimit");
    let scopes = [("messageGroup", true), ("queue", false)];
    let deduplicates_per_group = props.choice("DeduplicationScope", &scopes)?.unwrap_or(false);
    let limits = [("perMessageGroupId", true), ("perQueue", false)];
    let limits_throughput_per_group = props.choice("FifoThroughputLimit", &limits)?.unwrap_or(false);
    if limits_throughput_per_group && !deduplicates_per_group {
        return Err(props.fault(line, "FifoThroughputLimit", "needs `DeduplicationScope: messageGroup`"));
    }
    Ok(Fifo { content_based_deduplication, deduplicates_per_group, limits_throughput_per_group })
}
