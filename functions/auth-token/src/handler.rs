//! `/auth/*` as RFC 6749, 7009 and 7662 have it, and `/.well-known/*` as RFC 8414 and 7517 do.

use std::collections::BTreeMap;
use std::convert::Infallible;

use domain::access::{AUDIENCE, Scope};
use domain::fault::{Fault, Remedy};
use domain::id::{FamilyId, IdError};
use domain::oauth::{AuthorizationServer, Credentials, Fresh, Introspection, OauthFault, Tokens, Visit};
use lambda_kit::http::{self, BadFields, Request, Response, StatusCode, header, json};
use lambda_kit::random;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// What the function needs.
pub(crate) struct Auth {
    pub(crate) server: AuthorizationServer,
    pub(crate) public_url: Option<String>,
}

/// Metadata and keys may be kept for a moment; nothing keeps what is told of a token.
const PUBLIC: &str = "public, max-age=300";
const PRIVATE: &str = "no-store";

pub(crate) async fn answer(auth: &Auth, request: Request, now: OffsetDateTime) -> Result<Response, Infallible> {
    let result = auth.answer(&request, now).await;
    let public = result.is_ok() && request.uri().path().contains("/.well-known/");
    let mut response = result.unwrap_or_else(|fault| http::refuse(&fault, &told(&fault)));
    let kept = header::HeaderValue::from_static(if public { PUBLIC } else { PRIVATE });
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    Ok(response)
}

/// The body of RFC 6749 (5.2), whose description has neither quotes nor anything beyond ASCII.
fn told(fault: &dyn Fault) -> Value {
    let description = fault.public_message();
    let description: String =
        description.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
    json!({ "error": fault.code(), "error_description": description })
}

impl Auth {
    async fn answer(&self, request: &Request, now: OffsetDateTime) -> Result<Response, Refused> {
        let issuer = http::base_url(request, self.public_url.as_deref());
        let source = http::source(request);
        let visit = Visit { issuer: &issuer, source: &source, now };
        let answer = match request.uri().path() {
            "/auth/token" => self.token(visit, request).await?,
            "/auth/refresh" => self.refresh(visit, request).await?,
            "/auth/revoke" => self.revoke(visit, request).await?,
            "/auth/introspect" => self.introspect(visit, request).await?,
            "/.well-known/jwks.json" => self.keys().await?,
            _ => metadata(&issuer),
        };
        Ok(json(StatusCode::OK, &answer))
    }

    async fn token(&self, visit: Visit<'_>, request: &Request) -> Result<Value, Refused> {
        let fields = http::fields(request)?;
        let grant_type = required(&fields, "grant_type")?;
        let credentials = credentials(request, &fields)?.ok_or(OauthFault::InvalidClient)?;
        let scope = fields.get("scope").map(String::as_str);
        let tokens = match grant_type {
            "client_credentials" => self.server.client_credentials(visit, &credentials, scope, fresh()?).await?,
            "refresh_token" => {
                let token = required(&fields, "refresh_token")?;
                self.server.refresh(visit, Some(&credentials), token, scope, fresh()?).await?
            }
            _ => return Err(OauthFault::UnsupportedGrantType.into()),
        };
        Ok(given(&tokens))
    }

    async fn refresh(&self, visit: Visit<'_>, request: &Request) -> Result<Value, Refused> {
        let fields = http::fields(request)?;
        let credentials = credentials(request, &fields)?;
        let (token, scope) = (required(&fields, "refresh_token")?, fields.get("scope").map(String::as_str));
        Ok(given(&self.server.refresh(visit, credentials.as_ref(), token, scope, fresh()?).await?))
    }

    async fn revoke(&self, visit: Visit<'_>, request: &Request) -> Result<Value, Refused> {
        let fields = http::fields(request)?;
        let credentials = credentials(request, &fields)?;
        self.server.revoke(visit, credentials.as_ref(), required(&fields, "token")?).await?;
        Ok(json!({}))
    }

    async fn introspect(&self, visit: Visit<'_>, request: &Request) -> Result<Value, Refused> {
        let fields = http::fields(request)?;
        let credentials = credentials(request, &fields)?.ok_or(OauthFault::InvalidClient)?;
        let found = self.server.introspect(visit, &credentials, required(&fields, "token")?).await?;
        Ok(found.map_or_else(|| json!({ "active": false }), |found| described(&found, visit.issuer)))
    }

    async fn keys(&self) -> Result<Value, Refused> {
        let keys = self.server.public_keys().await?;
        let key = |key: &domain::access::PublicKey| {
            json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.key_id, "n": key.modulus, "e": key.exponent,
            })
        };
        Ok(json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() }))
    }
}

fn given(tokens: &Tokens) -> Value {
    json!({
        "access_token": tokens.access_token.expose_secret(),
        "token_type": "Bearer",
        "expires_in": tokens.expires_in.whole_seconds(),
        "refresh_token": tokens.refresh_token.expose_secret(),
        "scope": Scope::join(&tokens.scopes),
    })
}

fn described(token: &Introspection, issuer: &str) -> Value {
    json!({
        "active": true,
        "token_type": token.token_type,
        "client_id": token.client_id,
        "sub": token.user_id,
        "user_id": token.user_id,
        "tenant_id": token.tenant_id,
        "scope": Scope::join(&token.scopes),
        "sid": token.session_id,
        "exp": token.expires_at.unix_timestamp(),
        "iss": issuer,
        "aud": AUDIENCE,
    })
}

fn metadata(issuer: &str) -> Value {
    let with_secret = ["client_secret_basic", "client_secret_post"];
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/auth/token"),
        "token_endpoint_auth_methods_supported": with_secret,
        "revocation_endpoint": format!("{issuer}/auth/revoke"),
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "introspection_endpoint": format!("{issuer}/auth/introspect"),
        "introspection_endpoint_auth_methods_supported": with_secret,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "grant_types_supported": ["client_credentials", "refresh_token"],
        "response_types_supported": [],
        "scopes_supported": Scope::ALL.map(Scope::as_str),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}

fn required<'f>(fields: &'f BTreeMap<String, String>, name: &str) -> Result<&'f str, OauthFault> {
    let missing = || OauthFault::InvalidRequest(format!("`{name}` is missing"));
    fields.get(name).map(String::as_str).ok_or_else(missing)
}

/// What the client proves itself with: in the header or in the body, never in both (RFC 6749, 2.3).
fn credentials(request: &Request, fields: &BTreeMap<String, String>) -> Result<Option<Credentials>, OauthFault> {
    let both = || OauthFault::InvalidRequest("the client's credentials are in the header and in the body".to_owned());
    let in_body = (fields.get("client_id"), fields.get("client_secret"));
    let pair = match (http::basic(request), in_body) {
        (Some(_), (_, Some(_))) => return Err(both()),
        (Some(Err(_)), _) => return Err(OauthFault::InvalidClient),
        (Some(Ok((id, _))), (Some(other), None)) if id != *other => return Err(both()),
        (Some(Ok(pair)), _) => Some(pair),
        (None, (Some(id), Some(secret))) => Some((id.clone(), secret.clone())),
        (None, (None, Some(_))) => return Err(OauthFault::InvalidRequest("`client_id` is missing".to_owned())),
        (None, (_, None)) => None,
    };
    Ok(pair.map(|(client_id, client_secret)| Credentials { client_id, client_secret: client_secret.into() }))
}

fn fresh() -> Result<Fresh, Refused> {
    let secret = || random::secret().map_err(|_| Refused::NoRandomness);
    let family_id = FamilyId::parse(random::uuid().to_string())?;
    let (anchor, token_id) = (secret()?.into(), random::uuid().to_string());
    Ok(Fresh { family_id, anchor, secret: secret()?.into(), token_id })
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Oauth(#[from] OauthFault),
    #[error(transparent)]
    Fields(#[from] BadFields),
    #[error("no identifier could be made")]
    Id(#[from] IdError),
    #[error("no randomness")]
    NoRandomness,
}

impl Fault for Refused {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Oauth(fault) => fault.remedy(),
            Self::Fields(fault) => fault.remedy(),
            Self::Id(_) | Self::NoRandomness => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Oauth(fault) => fault.code(),
            Self::Fields(fault) => fault.code(),
            Self::Id(_) | Self::NoRandomness => "server_error",
        }
    }

    fn challenge(&self) -> Option<String> {
        match self {
            Self::Oauth(fault) => fault.challenge(),
            Self::Fields(_) | Self::Id(_) | Self::NoRandomness => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use domain::oauth::{ClientStore as _, RefreshSeal as _};
    use testkit::sample::{self, NOW};
    use testkit::{MemoryAuth, MemoryLimiter, MemoryPushQueue, MemoryTokens, PlainRefreshSeal};

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    async fn auth() -> Auth {
        let (store, tokens) = (Arc::new(MemoryAuth::default()), Arc::new(MemoryTokens::default()));
        let client =
            domain::oauth::Client { rate: Some(1_000), ..sample::client("c1", PlainRefreshSeal.hash("s3cret:")) };
        store.put(&client).await.unwrap();
        let server = AuthorizationServer {
            clients: store.clone(),
            families: store,
            limiter: Arc::new(MemoryLimiter::default()),
            seal: Arc::new(PlainRefreshSeal),
            signer: tokens.clone(),
            push: Arc::new(MemoryPushQueue::default()),
            verifier: tokens,
        };
        Auth { server, public_url: Some("https://skylark.example".to_owned()) }
    }

    fn basic(id: &str, secret: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{id}:{secret}")))
    }

    async fn post(
        auth: &Auth,
        path: &str,
        kind: &str,
        authorization: Option<&str>,
        body: &str,
    ) -> (u16, Value, Response) {
        let mut request = Request::new(body.into());
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        let response = answer(auth, request, NOW).await.unwrap();
        let body = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body, response)
    }

    #[tokio::test]
    async fn a_form_with_basic_and_json_with_a_body_give_the_same_answer() {
        let auth = auth().await;
        let header = basic("c1", "s3cret%3A");
        let (status, form, response) =
            post(&auth, "/auth/token", FORM, Some(&header), "grant_type=client_credentials").await;
        assert_eq!((status, response.headers()["cache-control"].to_str().unwrap()), (200, "no-store"));
        let body = r#"{"grant_type":"client_credentials","client_id":"c1","client_secret":"s3cret:","scope":"chat"}"#;
        let (status, json, _) = post(&auth, "/auth/token", "application/json", None, body).await;
        assert_eq!(status, 200);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&form), ["access_token", "expires_in", "refresh_token", "scope", "token_type"]);
        assert_eq!(names(&form), names(&json));
        assert_eq!(
            (&form["scope"], &json["scope"], &form["expires_in"]),
            (&"lark chat".into(), &"chat".into(), &900.into())
        );
    }

    #[tokio::test]
    async fn every_refusal_has_the_code_of_the_standard() {
        let auth = auth().await;
        let (good, bad) = (basic("c1", "s3cret:"), basic("c1", "other"));
        let token = "grant_type=client_credentials";
        let body_too = "grant_type=client_credentials&client_secret=s3cret:";
        for (path, authorization, body, status, code) in [
            ("/auth/token", None, token, 401, "invalid_client"),
            ("/auth/token", Some(bad.as_str()), token, 401, "invalid_client"),
            ("/auth/token", Some("Basic ???"), token, 401, "invalid_client"),
            ("/auth/token", Some(good.as_str()), body_too, 400, "invalid_request"),
            ("/auth/token", Some(good.as_str()), "grant_type=client_credentials&client_id=c2", 400, "invalid_request"),
            ("/auth/token", Some(good.as_str()), "scope=chat", 400, "invalid_request"),
            ("/auth/token", Some(good.as_str()), "grant_type=password", 400, "unsupported_grant_type"),
            ("/auth/token", Some(good.as_str()), "grant_type=client_credentials&scope=root", 400, "invalid_scope"),
            ("/auth/token", Some(good.as_str()), "grant_type=a&grant_type=b", 400, "invalid_request"),
            ("/auth/token", Some(good.as_str()), "grant_type=refresh_token", 400, "invalid_request"),
            ("/auth/token", Some(good.as_str()), "grant_type=refresh_token&refresh_token=x", 400, "invalid_grant"),
            ("/auth/refresh", None, "refresh_token=x", 400, "invalid_grant"),
            ("/auth/refresh", None, "", 400, "invalid_request"),
            ("/auth/introspect", None, "token=x", 401, "invalid_client"),
            ("/auth/revoke", None, "", 400, "invalid_request"),
        ] {
            let (found, answer, response) = post(&auth, path, FORM, authorization, body).await;
            let challenged = response.headers().contains_key("www-authenticate");
            assert_eq!(
                (found, answer["error"].as_str(), challenged),
                (status, Some(code), status == 401),
                "{path} {body}"
            );
            assert!(!answer["error_description"].as_str().unwrap().contains(['"', '\\']));
        }
        let (status, answer, _) = post(&auth, "/auth/token", "text/plain", None, token).await;
        assert_eq!((status, answer["error"].as_str()), (415, Some("invalid_request")));
    }

    #[tokio::test]
    async fn a_login_is_refreshed_shown_and_ended() {
        let auth = auth().await;
        let header = basic("c1", "s3cret:");
        let call = |path: &'static str, body: String| {
            let (auth, header) = (&auth, header.as_str());
            async move { post(auth, path, FORM, Some(header), &body).await }
        };
        let (_, first, _) = call("/auth/token", "grant_type=client_credentials".to_owned()).await;
        let refresh_token = first["refresh_token"].as_str().unwrap();
        let body = format!("grant_type=refresh_token&refresh_token={refresh_token}");
        let (status, second, _) = call("/auth/token", body).await;
        assert_eq!(status, 200);
        let (status, repeated, _) = post(
            &auth,
            "/auth/refresh",
            "application/json",
            None,
            &json!({ "refresh_token": refresh_token }).to_string(),
        )
        .await;
        assert_eq!((status, &repeated["refresh_token"]), (200, &second["refresh_token"]));

        let access = second["access_token"].as_str().unwrap();
        let (_, shown, _) = call("/auth/introspect", format!("token={access}")).await;
        assert_eq!((&shown["active"], &shown["sub"], &shown["client_id"]), (&true.into(), &"ann".into(), &"c1".into()));
        for token in [access, access, "unknown"] {
            let (status, body, _) = call("/auth/revoke", format!("token={token}&token_type_hint=access_token")).await;
            assert_eq!((status, body), (200, json!({})));
        }
        let (status, shown, _) = call("/auth/introspect", format!("token={access}")).await;
        assert_eq!((status, shown), (200, json!({ "active": false })));
    }

    #[tokio::test]
    async fn metadata_names_every_endpoint_and_may_be_kept() {
        let auth = auth().await;
        for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
            let (status, body, response) = post(&auth, path, FORM, None, "").await;
            assert_eq!((status, body["issuer"].as_str()), (200, Some("https://skylark.example")));
            assert_eq!(body["token_endpoint"], "https://skylark.example/auth/token");
            assert_eq!(response.headers()["cache-control"], "public, max-age=300");
        }
    }
}
