//! User authorization: the page to send people to, and what their browser brings back. The exchange itself is a call of `client`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use url::Url;

/// Without this scope no refresh token is given.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// Most scopes one authorize page takes.
pub const MAX_SCOPES: usize = 50;

/// The page that asks for consent, below the host of the accounts.
#[cfg(feature = "client")]
pub(crate) const AUTHORIZE_PATH: &str = "/open-apis/authen/v1/authorize";

/// What one authorization asks for.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizeRequest<'a> {
    pub client_id: &'a str,
    /// Must be in the app's list of redirect URLs, to the letter.
    pub redirect_uri: &'a str,
    /// `offline_access` is added.
    pub scopes: &'a [&'a str],
    /// Unguessable and good for one session.
    pub state: &'a str,
    /// From [`code_challenge`].
    pub code_challenge: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OauthError {
    #[error("`scopes` has {0} entries with `offline_access`, at most {MAX_SCOPES} are allowed")]
    TooManyScopes(usize),
    #[error("scope `{0}` is empty or holds white space")]
    BadScope(String),
    #[error("`accounts_base` cannot carry a path")]
    BadBase,
    #[error("`code_verifier` must have 43 to 128 letters, digits or `-._~`")]
    BadVerifier,
    #[error("`{0}` is missing from the redirect")]
    MissingParameter(&'static str),
    #[error("`{0}` occurs twice in the redirect")]
    RepeatedParameter(&'static str),
}

/// The page that asks the person for consent, e.g. below `https://accounts.feishu.cn`. Each scope is asked for once, in the order given.
///
/// # Errors
/// On a scope the page would refuse, or more than 50 of them.
pub fn authorize_url(accounts_base: &Url, request: &AuthorizeRequest<'_>) -> Result<Url, OauthError> {
    let mut scopes: Vec<&str> = Vec::with_capacity(request.scopes.len() + 1);
    for &scope in request.scopes.iter().chain([&OFFLINE_ACCESS]) {
        if scope.is_empty() || scope.contains(char::is_whitespace) {
            return Err(OauthError::BadScope(scope.to_owned()));
        }
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.len() > MAX_SCOPES {
        return Err(OauthError::TooManyScopes(scopes.len()));
    }
    let mut url = accounts_base.clone();
    url.path_segments_mut().map_err(|()| OauthError::BadBase)?.pop_if_empty().extend([
        "open-apis",
        "authen",
        "v1",
        "authorize",
    ]);
    url.query_pairs_mut()
        .clear()
        .append_pair("client_id", request.client_id)
        .append_pair("redirect_uri", request.redirect_uri)
        .append_pair("response_type", "code")
        .append_pair("scope", &scopes.join(" "))
        .append_pair("state", request.state)
        .append_pair("code_challenge", request.code_challenge)
        .append_pair("code_challenge_method", "S256");
    Ok(url)
}

/// The S256 challenge of a PKCE verifier (RFC 7636).
///
/// # Errors
/// When the verifier is not 43 to 128 unreserved characters, which the token endpoint would refuse later.
pub fn code_challenge(verifier: &str) -> Result<String, OauthError> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if (43..=128).contains(&verifier.len()) && verifier.bytes().all(unreserved) {
        Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())))
    } else {
        Err(OauthError::BadVerifier)
    }
}

/// The vendor's code that an authorize page shows instead of asking, or that its redirect carries. The vendor documents neither's form:
/// it is a number of five digits from 20000 on, named as a code shortly before.
#[must_use]
pub fn page_error(location: Option<&str>, page: &str) -> Option<i64> {
    location.and_then(named_code).or_else(|| named_code(page))
}

fn named_code(text: &str) -> Option<i64> {
    /// How far before the number it may be called a code: `Error code <strong>20029`.
    const NEAR_CHARS: usize = 40;

    let mut rest = text;
    let mut before = String::new();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (head, tail) = rest.split_at(start);
        let digits = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = tail.split_at(digits);
        before.push_str(head);
        let near: String = before.chars().rev().take(NEAR_CHARS).collect::<Vec<_>>().into_iter().rev().collect();
        let near = near.to_lowercase();
        let stands_alone = !near.ends_with(|c: char| c.is_ascii_alphanumeric())
            && !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_named = ["code", "错误码", "错误代码"].iter().any(|name| near.contains(name));
        if digits == 5 && number.starts_with("20") && stands_alone && is_named {
            return number.parse().ok();
        }
        before = near + number;
        rest = after;
    }
    None
}

/// What the person decided.
#[derive(Debug, Clone)]
pub enum Decision {
    /// The code lives 5 minutes and works once.
    Granted { code: SecretString },
    /// `access_denied` when the person declined.
    Refused { error: String, description: Option<String> },
}

/// A browser that came back to the redirect URL. Nothing in it is trusted until `state` is found to be ours.
#[derive(Debug, Clone)]
pub struct Redirect {
    pub state: String,
    pub decision: Decision,
}

impl Redirect {
    /// Reads the raw query string, with or without its `?`.
    ///
    /// # Errors
    /// When `state`, or both `code` and `error`, are missing or empty, or one of them occurs twice.
    pub fn parse(query: &str) -> Result<Self, OauthError> {
        let query = query.strip_prefix('?').unwrap_or(query);
        let parameter = |name: &'static str| {
            let mut values =
                url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(OauthError::RepeatedParameter(name)),
                (value, None) => Ok(value.filter(|value| !value.is_empty()).map(String::from)),
            }
        };
        let state = parameter("state")?.ok_or(OauthError::MissingParameter("state"))?;
        let decision = match (parameter("error")?, parameter("code")?) {
            (Some(error), _) => Decision::Refused { error, description: parameter("error_description")? },
            (None, Some(code)) => Decision::Granted { code: code.into() },
            (None, None) => return Err(OauthError::MissingParameter("code")),
        };
        Ok(Self { state, decision })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn request<'a>(scopes: &'a [&'a str]) -> AuthorizeRequest<'a> {
        AuthorizeRequest {
            client_id: "cli_1",
            redirect_uri: "https://app.example/cb?a=b&c=d",
            scopes,
            state: "s t&ate",
            code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        }
    }

    fn pairs(url: &Url) -> Vec<(String, String)> {
        url.query_pairs().into_owned().collect()
    }

    #[test]
    fn a_code_is_found_wherever_a_page_or_its_redirect_names_it() {
        for (location, page, code) in [
            (None, "<p>Error code <strong>20029</strong></p>", Some(20_029)),
            (None, "<p>错误码：20029 redirect_uri 请求不合法</p>", Some(20_029)),
            (None, r#"{"code":20071,"msg":"mismatch"}"#, Some(20_071)),
            (Some("/error?lang=zh&error_code=20029"), "", Some(20_029)),
            (Some("https://app.example/back?error=access_denied&code=20027&state=1"), "", Some(20_027)),
            (Some("https://accounts.feishu.cn/login?app=cli_a20029&code_challenge=x20029y"), "<p>Sign in</p>", None),
            (None, "<script>var build = 20029;</script><p>2026-11-21 20029 people signed in</p>", None),
            (None, "code 200291, code 120029, code 2002", None),
            (None, "", None),
        ] {
            assert_eq!(page_error(location, page), code, "{location:?} {page}");
        }
    }

    #[test]
    fn the_page_asks_once_for_each_scope_and_always_for_offline_access() {
        let base = Url::parse("https://accounts.feishu.cn").unwrap();
        let url = authorize_url(&base, &request(&["calendar:calendar:readonly", "offline_access", "a", "a"])).unwrap();
        assert!(url.as_str().starts_with("https://accounts.feishu.cn/open-apis/authen/v1/authorize?client_id=cli_1&"));
        let pairs = pairs(&url);
        for (key, value) in [
            ("redirect_uri", "https://app.example/cb?a=b&c=d"),
            ("scope", "calendar:calendar:readonly offline_access a"),
            ("state", "s t&ate"),
            ("code_challenge_method", "S256"),
            ("response_type", "code"),
        ] {
            assert!(pairs.contains(&(key.to_owned(), value.to_owned())), "{key}");
        }
    }

    #[test]
    fn a_base_may_have_a_path_and_must_be_able_to() {
        let base = Url::parse("http://127.0.0.1:9/lark/").unwrap();
        assert_eq!(authorize_url(&base, &request(&[])).unwrap().path(), "/lark/open-apis/authen/v1/authorize");
        assert_eq!(authorize_url(&Url::parse("mailto:a@b").unwrap(), &request(&[])), Err(OauthError::BadBase));
    }

    #[test]
    fn scopes_the_page_would_refuse_are_refused_here() {
        let base = Url::parse("https://accounts.larksuite.com").unwrap();
        let many: Vec<String> = (0..50).map(|n| format!("scope:{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(authorize_url(&base, &request(&many)), Err(OauthError::TooManyScopes(51)));
        assert!(authorize_url(&base, &request(&many[..49])).is_ok());
        for scope in ["", "a b", "a\n"] {
            assert_eq!(authorize_url(&base, &request(&[scope])), Err(OauthError::BadScope(scope.to_owned())));
        }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        assert_eq!(
            code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap(),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        for verifier in ["", &"a".repeat(42), &"a".repeat(129), &format!("{}é", "a".repeat(60)), &"+".repeat(64)] {
            assert_eq!(code_challenge(verifier), Err(OauthError::BadVerifier), "{verifier}");
        }
    }

    #[test]
    fn a_redirect_is_granted_or_refused() {
        let granted = Redirect::parse("?code=a%2Bb&state=s%201").unwrap();
        assert_eq!(granted.state, "s 1");
        assert!(matches!(&granted.decision, Decision::Granted { code } if code.expose_secret() == "a+b"));
        assert!(!format!("{granted:?}").contains("a+b"), "the code must not be printed");

        let refused = Redirect::parse("error=access_denied&state=s&code=").unwrap();
        assert!(matches!(refused.decision, Decision::Refused { error, description: None } if error == "access_denied"));
    }

    #[test]
    fn a_redirect_without_its_parameters_or_with_two_of_one_is_refused() {
        for (query, expected) in [
            ("", OauthError::MissingParameter("state")),
            ("code=c", OauthError::MissingParameter("state")),
            ("code=c&state=", OauthError::MissingParameter("state")),
            ("state=s", OauthError::MissingParameter("code")),
            ("code=&state=s", OauthError::MissingParameter("code")),
            ("code=c&code=d&state=s", OauthError::RepeatedParameter("code")),
            ("code=c&state=s&state=t", OauthError::RepeatedParameter("state")),
        ] {
            assert_eq!(Redirect::parse(query).unwrap_err(), expected, "{query}");
        }
    }
}
