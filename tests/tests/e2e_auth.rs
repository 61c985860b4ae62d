//! Skylark's own OAuth 2 through a running bundle: as a client that knows only the metadata, as one that loses answers, as one that
//! forges, and across a kill.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::access::{AccessToken, Caller, Scope, TokenSigner as _};
use domain::id::{ClientId, FamilyId, TenantId, UserId};
use lambda_kit::clock;
use reqwest::{Client, Response};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, workspace};
use skylark_tests::description;
use time::Duration;
use vault::{AccessTokens, SigningKeyFiles};

/// A client and its secret.
#[derive(Clone)]
struct Account {
    id: String,
    secret: String,
}

impl Account {
    fn of(json: &Value) -> Self {
        let text = |name: &str| json[name].as_str().unwrap().to_owned();
        Self { id: text("client_id"), secret: text("client_secret") }
    }

    /// Registers a client for a user of its own, with limits that no test reaches unless it wants to.
    fn add(bundle: &Bundle, user_id: &str, more: &[&str]) -> Self {
        let arguments = [
            "client",
            "add",
            "--json",
            "--name",
            "周报 📊",
            "--user-id",
            user_id,
            "--scope",
            "lark",
            "--scope",
            "chat",
        ];
        Self::of(&run(bundle, &[&arguments, more].concat()))
    }
}

const NO_LIMIT: [&str; 2] = ["--rate", "100000"];

/// The JSON that a command prints.
fn run(bundle: &Bundle, arguments: &[&str]) -> Value {
    let (code, out, err) = bundle.skylark(arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or(Value::Null)
}

struct Api<'b> {
    http: Client,
    base: &'b str,
}

impl<'b> Api<'b> {
    fn of(bundle: &'b Bundle) -> Self {
        Self { http: Client::new(), base: bundle.setting("/http") }
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json().await.unwrap());
        description::check("GET", path, status, &body);
        body
    }

    async fn post(&self, path: &str, account: Option<&Account>, form: &[(&str, &str)]) -> (u16, Value) {
        let response = self.send(path, account, form).await;
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        let (status, body) = (response.status().as_u16(), response.json().await.unwrap());
        description::check("POST", path, status, &body);
        (status, body)
    }

    async fn send(&self, path: &str, account: Option<&Account>, form: &[(&str, &str)]) -> Response {
        let mut request = self.http.post(format!("{}{path}", self.base)).form(form);
        if let Some(account) = account {
            request = request.basic_auth(&account.id, Some(&account.secret));
        }
        request.send().await.unwrap()
    }

    async fn log_in(&self, account: &Account) -> Value {
        let (status, tokens) = self.post("/auth/token", Some(account), &[("grant_type", "client_credentials")]).await;
        assert_eq!(status, 200, "{tokens}");
        tokens
    }

    /// The contract's short form: JSON with the token and nothing else.
    async fn refresh(&self, token: &str) -> (u16, Value) {
        let request = self.http.post(format!("{}/auth/refresh", self.base)).json(&json!({ "refresh_token": token }));
        let response = request.send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json().await.unwrap());
        description::check("POST", "/auth/refresh", status, &body);
        (status, body)
    }

    async fn is_active(&self, account: &Account, token: &str) -> bool {
        let (status, shown) = self.post("/auth/introspect", Some(account), &[("token", token)]).await;
        assert_eq!(status, 200, "{shown}");
        shown["active"].as_bool().unwrap()
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// Everything that the bundle and its functions logged.
fn logs(bundle: &Bundle) -> String {
    fn read(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                into.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut logs = String::new();
    read(bundle.folder(), &mut logs);
    logs
}

/// Moves the moment at which every token of a family was exchanged a minute into the past.
async fn age(bundle: &Bundle, api: &Api<'_>, refresh_token: &str) {
    let family = refresh_token.split('.').next().unwrap();
    let table = bundle.setting("/tables/AuthTable");
    let call = |operation: &'static str, body: Value| {
        let request = api.http.post(bundle.setting("/aws_endpoint")).body(body.to_string());
        let request = request.header("x-amz-target", format!("DynamoDB_20120810.{operation}"));
        let request =
            request.header("content-type", "application/x-amz-json-1.0").header("x-amz-date", "20260101T000000Z");
        // The local endpoint wants a signature and checks none.
        let signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";
        let request = request.header("authorization", signed);
        async move {
            let response = request.send().await.unwrap();
            let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
            assert_eq!(status, 200, "{operation}: {body}");
            serde_json::from_str::<Value>(&body).unwrap()
        }
    };
    let key = json!({ "pk": { "S": format!("FAMILY#{family}") }, "sk": { "S": "FAMILY" } });
    let mut item = call("GetItem", json!({ "TableName": table, "Key": key })).await["Item"].take();
    for retired in item["retired"]["L"].as_array_mut().unwrap() {
        retired["M"]["rotated_at"] = json!({ "S": "2026-01-01T00:00:00Z" });
    }
    call("PutItem", json!({ "TableName": table, "Item": item })).await;
}

#[tokio::test]
async fn the_metadata_is_all_that_a_client_needs() {
    let bundle = Bundle::start();
    let api = Api::of(&bundle);
    let account = Account::of(&bundle.settings["clients"][0]);
    let metadata = api.get("/.well-known/oauth-authorization-server").await;
    assert_eq!(metadata, api.get("/.well-known/openid-configuration").await);
    assert_eq!(metadata["issuer"], api.base);
    let path = |name: &str| text(&metadata, name).strip_prefix(api.base).unwrap().to_owned();

    let form = [("grant_type", "client_credentials"), ("scope", "chat lake:read")];
    let (status, tokens) = api.post(&path("token_endpoint"), Some(&account), &form).await;
    assert_eq!((status, &tokens["token_type"], &tokens["expires_in"]), (200, &json!("Bearer"), &json!(900)));
    assert_eq!(tokens["scope"], "chat lake:read");

    // Verified as a stranger would: with the key that the token names, and nothing of ours.
    let access = text(&tokens, "access_token");
    let parts: Vec<&str> = access.split('.').collect();
    let decode = |part: &str| BASE64URL.decode(part).unwrap();
    let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
    let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
    let keys = api.get(&path("jwks_uri")).await;
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("RSA"), &json!("RS256"), &json!("sig")));
    let public = RsaPublicKeyComponents { n: decode(text(key, "n")), e: decode(text(key, "e")) };
    let message = format!("{}.{}", parts[0], parts[1]);
    public.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &decode(parts[2])).unwrap();
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("RS256")));
    assert_eq!((&claims["iss"], &claims["client_id"]), (&json!(api.base), &json!(account.id)));
    assert_eq!((&claims["sub"], &claims["user_id"]), (&bundle.settings["clients"][0]["user_id"], &claims["sub"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 900);
    for name in ["aud", "jti", "sid", "tenant_id", "scope"] {
        assert!(!text(&claims, name).is_empty());
    }

    let token = [("token", access)];
    let (_, shown) = api.post(&path("introspection_endpoint"), Some(&account), &token).await;
    assert_eq!((&shown["active"], &shown["sid"], &shown["scope"]), (&json!(true), &claims["sid"], &claims["scope"]));
    let form = [("grant_type", "refresh_token"), ("refresh_token", text(&tokens, "refresh_token"))];
    assert_eq!(api.post(&path("token_endpoint"), Some(&account), &form).await.0, 200);
    assert_eq!(api.post(&path("revocation_endpoint"), Some(&account), &token).await, (200, json!({})));
    // The sixth within a minute.
    let response = api.send("/auth/introspect", Some(&account), &token).await;
    assert_eq!(response.status().as_u16(), 200);
    let response = api.send("/auth/introspect", Some(&account), &token).await;
    assert_eq!(response.status().as_u16(), 429);
    let wait: u32 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait));
    assert_eq!(response.json::<Value>().await.unwrap()["error"], "rate_limited");
}

/// Authlib, which knows nothing of us, given the issuer and its credentials.
#[tokio::test]
async fn a_library_that_knows_the_standards_needs_the_metadata_alone() {
    let requirements = workspace().join(".ci/requirements-oauth.txt");
    let Some(python) = testkit::python(&requirements, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let bundle = Bundle::start();
    let account = Account::add(&bundle, "ann", &NO_LIMIT);
    let mut command = Command::new(python);
    command.arg(workspace().join("tests/peers/oauth_client.py"));
    command.args([bundle.setting("/http"), &account.id, &account.secret, "chat"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let by = |method: &str| json!({ "method": method, "sub": "ann", "scope": "chat", "active": true, "ended": false });
    assert_eq!(shown, json!([by("client_secret_basic"), by("client_secret_post")]));
}

#[tokio::test]
async fn a_login_survives_lost_answers_and_a_kill_and_ends_when_a_copy_is_used() {
    let bundle = Bundle::start();
    let account = Account::add(&bundle, "bob", &NO_LIMIT);
    let (refreshed, keys, told) = {
        let api = Api::of(&bundle);
        let tokens = api.log_in(&account).await;
        let r0 = text(&tokens, "refresh_token").to_owned();
        // Twenty at once: the client is impatient, or its network is.
        let answers: Vec<_> = (0..20)
            .map(|_| {
                let (http, base, token) = (api.http.clone(), bundle.setting("/http").to_owned(), r0.clone());
                tokio::spawn(async move { Api { http, base: &base }.refresh(&token).await })
            })
            .collect();
        let mut successors = BTreeSet::new();
        for answer in answers {
            let (status, tokens) = answer.await.unwrap();
            assert_eq!(status, 200, "{tokens}");
            successors.insert(text(&tokens, "refresh_token").to_owned());
        }
        assert_eq!(successors.len(), 1, "one successor, whoever won");
        (successors.pop_first().unwrap(), api.get("/.well-known/jwks.json").await, bundle.settings["clients"].clone())
    };

    let bundle = Bundle::start_on(bundle.kill());
    let api = Api::of(&bundle);
    assert_eq!((api.get("/.well-known/jwks.json").await, &bundle.settings["clients"]), (keys, &told));
    let (status, tokens) = api.refresh(&refreshed).await;
    assert_eq!(status, 200, "{tokens}");
    let (access, r2) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert!(api.is_active(&account, access).await);
    age(&bundle, &api, &refreshed).await;
    let (status, refused) = api.refresh(&refreshed).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    assert_eq!(api.refresh(r2).await.0, 400, "its successor as well");
    assert!(!api.is_active(&account, access).await, "and its access tokens");
    assert!(logs(&bundle).contains("token.reuse"));
}

#[tokio::test]
async fn secrets_rotate_and_a_disabled_client_gets_nothing() {
    let bundle = Bundle::start();
    let api = Api::of(&bundle);
    let old = Account::add(&bundle, "bob", &NO_LIMIT);
    let tokens = api.log_in(&old).await;
    let new = Account::of(&run(&bundle, &["client", "rotate", "--json", &old.id]));
    assert!(old.id == new.id && old.secret != new.secret);
    for account in [&old, &new] {
        api.log_in(account).await;
    }
    run(&bundle, &["client", "rotate", "--finish", &old.id]);
    api.log_in(&new).await;
    let form = [("grant_type", "client_credentials")];
    let response = api.send("/auth/token", Some(&old), &form).await;
    assert_eq!(response.status().as_u16(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));

    let listed = run(&bundle, &["client", "list", "--json"]);
    let listed = listed.as_array().unwrap().iter().find(|client| client["client_id"] == new.id.as_str()).unwrap();
    assert_eq!((&listed["secrets"], &listed["rate"]), (&json!(1), &json!(100_000)));
    assert!(!listed.to_string().contains(&new.secret));

    run(&bundle, &["client", "disable", &new.id]);
    assert_eq!(api.post("/auth/token", Some(&new), &form).await.1["error"], "invalid_client");
    assert_eq!(api.refresh(text(&tokens, "refresh_token")).await.1["error"], "invalid_grant");
    run(&bundle, &["client", "enable", &new.id]);
    api.log_in(&new).await;
    for (arguments, problem) in [
        (vec!["client", "rotate", "nobody"], "no client `nobody`"),
        (vec!["client", "add", "--name", " ", "--user-id", "bob", "--scope", "chat"], "`name`"),
        (vec!["client", "add", "--name", "x", "--user-id", "a b", "--scope", "chat"], "`user_id`"),
        (vec!["client", "add", "--name", "x", "--user-id", "bob", "--scope", "root"], "lake:read"),
        (vec!["client", "update", &new.id, "--rate", "0"], "`rate`"),
    ] {
        let (code, _, err) = bundle.skylark(&arguments);
        assert!(code == 1 && err.contains(problem), "{arguments:?}: {code} {err}");
    }
}

/// A token under the bundle's own key, or another, that its server never made.
async fn forged(key_file: &Path, lived: Duration) -> String {
    let keys = SigningKeyFiles::read(&[key_file.to_owned()]).unwrap();
    let now = clock::now();
    let caller = Caller {
        client_id: ClientId::parse("c1").unwrap(),
        user_id: UserId::parse("bob").unwrap(),
        tenant_id: TenantId::parse("default").unwrap(),
        scopes: Scope::ALL.into(),
        session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
        expires_at: now - lived + Duration::minutes(15),
        rate: None,
    };
    let token = AccessToken { issuer: "x".to_owned(), caller, issued_at: now - lived, token_id: "j".to_owned() };
    AccessTokens::new(Box::new(keys), None).sign(&token).await.unwrap().expose_secret().to_owned()
}

#[tokio::test]
async fn nothing_forged_is_active_and_no_secret_is_logged() {
    const CANARY: &str = "canary-7b1f2c9e";
    let bundle = Bundle::start();
    let api = Api::of(&bundle);
    let account = Account::add(&bundle, "bob", &NO_LIMIT);
    let tokens = api.log_in(&account).await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert!(api.is_active(&account, access).await && api.is_active(&account, refresh).await);

    let parts: Vec<&str> = access.split('.').collect();
    let with_header = |header: Value| BASE64URL.encode(header.to_string());
    let header: Value = serde_json::from_slice(&BASE64URL.decode(parts[0]).unwrap()).unwrap();
    let other_kid = with_header(json!({ "alg": "RS256", "typ": "at+jwt", "kid": "another" }));
    let none = with_header(json!({ "alg": "none", "typ": "at+jwt", "kid": header["kid"] }));
    let mut claims: Value = serde_json::from_slice(&BASE64URL.decode(parts[1]).unwrap()).unwrap();
    claims["scope"] = json!("lake:write");
    let more_scope = BASE64URL.encode(claims.to_string());
    let foreign_key = bundle.folder().join("foreign.key");
    SigningKeyFiles::create_if_missing(&foreign_key).unwrap();
    let own_key = bundle.folder().join("SigningKey.key");
    for bad in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{other_kid}.{}.{}", parts[1], parts[2]),
        format!("{}.{more_scope}.{}", parts[0], parts[2]),
        forged(&foreign_key, Duration::ZERO).await,
        forged(&own_key, Duration::hours(1)).await,
        // Signed well, for a login that never was.
        forged(&own_key, Duration::ZERO).await,
        format!("{refresh}x"),
        CANARY.to_owned(),
    ] {
        let (status, shown) = api.post("/auth/introspect", Some(&account), &[("token", &bad)]).await;
        assert_eq!((status, shown), (200, json!({ "active": false })), "{bad}");
    }

    // Secrets in every wrong place.
    let wrong = |id: &str, secret: &str| Account { id: id.to_owned(), secret: secret.to_owned() };
    let form = [("grant_type", "client_credentials")];
    for account in [wrong(&account.id, CANARY), wrong(CANARY, &account.secret), wrong("nobody", CANARY)] {
        assert_eq!(api.post("/auth/token", Some(&account), &form).await.0, 401);
    }
    let both = [("grant_type", "client_credentials"), ("client_id", &account.id), ("client_secret", &account.secret)];
    assert_eq!(api.post("/auth/token", Some(&account), &both).await.1["error"], "invalid_request");
    assert_eq!(api.post("/auth/token", None, &[("grant_type", CANARY), both[1], both[2]]).await.0, 400);
    assert_eq!(
        api.post("/auth/token", None, &[("grant_type", "password"), ("scope", CANARY), both[1], both[2]]).await.0,
        400
    );
    assert_eq!(api.refresh(CANARY).await.0, 400);
    assert_eq!(api.post("/auth/revoke", Some(&account), &[("token", refresh)]).await.0, 200);
    assert!(!api.is_active(&account, access).await);
    // The address has failed four times; it may once more, and then it waits.
    assert_eq!(api.refresh(CANARY).await.0, 400);
    assert_eq!(api.refresh(CANARY).await.0, 429);

    let logs = logs(&bundle);
    for event in ["auth.failed", "token.revoked"] {
        assert!(logs.contains(event), "{event} in the audit log");
    }
    let told = Account::of(&bundle.settings["clients"][0]);
    for secret in [&account.secret, &told.secret, access, refresh, parts[2]] {
        assert!(!logs.contains(secret), "a secret is in the logs");
    }
    let anchor = refresh.split('.').nth(1).unwrap();
    assert!(!logs.contains(anchor) && !logs.contains(CANARY));
}
