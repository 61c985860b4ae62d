//! AWS clients: their configuration is loaded once per process.

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Amazon Root CA 1 to 4 and Starfield Services Root G2: all that an AWS endpoint is signed by. Reading the system's whole store
/// instead is most of an SDK's start-up time.
pub const AMAZON_ROOTS: &[u8] = include_bytes!("../roots/amazon.pem");

/// Region, credentials and `AWS_ENDPOINT_URL` from the environment, where Lambda puts them. The default chain would look in more places
/// and take a third of a millisecond at every cold start.
#[must_use]
pub fn config() -> SdkConfig {
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(crate::env::process("AWS_REGION").map(Region::new))
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .http_client(http_client());
    config.set_endpoint_url(crate::env::process("AWS_ENDPOINT_URL"));
    config.build()
}

/// An HTTP client that trusts Amazon's roots only.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    let builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    let roots = TrustStore::empty().with_pem_certificate(AMAZON_ROOTS);
    SharedHttpClient::new(MadeOnce(match TlsContext::builder().with_trust_store(roots).build() {
        Ok(context) => builder.tls_context(context).build_https(),
        // Building a context from roots that are compiled in cannot fail; the system's store is the safe answer if it ever does.
        Err(_) => builder.build_https(),
    }))
}

/// Reads the roots when the first request needs them. Each SDK client, as it is built, would have this done and thrown away: the
/// default for [`HttpClient::validate_base_client_config`], which is to do nothing, is what this type is for.
#[derive(Debug)]
struct MadeOnce(SharedHttpClient);

impl HttpClient for MadeOnce {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}
