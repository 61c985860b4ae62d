//! Where a template runs: what `Ref`, `GetAtt` and pseudo parameters answer.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The machine, in the words of the template. Endpoints carry no trailing slash.
#[derive(Debug, Clone)]
pub struct Place {
    pub region: String,
    /// Twelve digits.
    pub account_id: String,
    pub stack_name: String,
    /// Where every AWS service answers, `@connections` included: `http://127.0.0.1:PORT`.
    pub aws_endpoint: String,
    /// Base URL of the HTTP API.
    pub http_endpoint: String,
    /// URL of the WebSocket API: `ws://127.0.0.1:PORT`.
    pub websocket_endpoint: String,
    /// Stands in for every KMS key, as `file:{key_file}`; a key that signs has a file beside it, called after its logical id.
    pub key_file: PathBuf,
    /// Values for the template's parameters; each must be declared there. Lists are separated by commas.
    pub parameters: BTreeMap<String, String>,
}

impl Place {
    pub(crate) fn partition(&self) -> &'static str {
        if self.region.starts_with("cn-") {
            "aws-cn"
        } else if self.region.starts_with("us-gov-") {
            "aws-us-gov"
        } else {
            "aws"
        }
    }

    pub(crate) fn url_suffix(&self) -> &'static str {
        if self.partition() == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" }
    }

    pub(crate) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition(), self.region, self.account_id)
    }
}
