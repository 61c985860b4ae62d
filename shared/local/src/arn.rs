//! ARNs of this bundle, both ways.

/// Where a local bundle pretends to be.
pub(crate) const REGION: &str = "us-east-1";
/// Twelve digits, as AWS wants them.
pub(crate) const ACCOUNT: &str = "000000000000";

/// What an ARN names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    Queue(&'a str),
    Function(&'a str),
    Bus(&'a str),
    Bucket(&'a str),
}

impl<'a> Resource<'a> {
    pub(crate) fn parse(arn: &'a str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let service = parts.nth(2)?;
        let rest = parts.nth(2)?;
        match service {
            "sqs" => Some(Self::Queue(rest)),
            "lambda" => rest.strip_prefix("function:").map(Self::Function),
            "events" => rest.strip_prefix("event-bus/").map(Self::Bus),
            "s3" => Some(Self::Bucket(rest)),
            _ => None,
        }
    }
}

pub(crate) fn queue(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

pub(crate) fn function(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

pub(crate) fn bus(name: &str) -> String {
    format!("arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{name}")
}

pub(crate) fn bucket(name: &str) -> String {
    format!("arn:aws:s3:::{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_what_it_was_made_for() {
        assert_eq!(Resource::parse(&queue("a.fifo")), Some(Resource::Queue("a.fifo")));
        assert_eq!(Resource::parse(&function("f")), Some(Resource::Function("f")));
        assert_eq!(Resource::parse(&bus("b")), Some(Resource::Bus("b")));
        assert_eq!(Resource::parse(&bucket("c")), Some(Resource::Bucket("c")));
        for bad in ["", "arn:aws:sns:us-east-1:000000000000:t", "x:y"] {
            assert_eq!(Resource::parse(bad), None, "{bad}");
        }
    }
}
