//! The gate of Skylark's own API: who comes in, and how often they may change something.

use std::sync::Arc;

use domain::access::{AccessFault, AccessTokenVerifier, Caller, Scope};
use domain::limit::{LimitFault, Limiter};
use lambda_http::Request;
use lambda_http::http::Method;
use time::OffsetDateTime;

use super::caller;

/// Knows callers by their access token, and counts what they do, for all processes together.
#[expect(missing_debug_implementations, reason = "a verifier holds keys")]
pub struct Gate {
    verifier: Arc<dyn AccessTokenVerifier>,
    limiter: Arc<dyn Limiter>,
}

impl Gate {
    #[must_use]
    pub fn new(verifier: Arc<dyn AccessTokenVerifier>, limiter: Arc<dyn Limiter>) -> Self {
        Self { verifier, limiter }
    }

    /// Who sent the request, if their token opens `scope`.
    pub async fn admit(&self, request: &Request, scope: Scope, now: OffsetDateTime) -> Result<Caller, AccessFault> {
        let caller = caller(self.verifier.as_ref(), request, now).await?;
        caller.requires(scope)?;
        Ok(caller)
    }

    /// As [`Gate::admit`], and the request counts as a change that the caller's user makes, unless it is a GET: looking is free. Each part of the API
    /// (`chat`, `files`) counts for itself.
    pub async fn enter<E: From<AccessFault> + From<LimitFault>>(
        &self,
        request: &Request,
        scope: Scope,
        part: &str,
        now: OffsetDateTime,
    ) -> Result<Caller, E> {
        let caller = self.admit(request, scope, now).await?;
        if request.method() != Method::GET {
            self.count(&caller, part, now).await?;
        }
        Ok(caller)
    }

    async fn count(&self, caller: &Caller, part: &str, now: OffsetDateTime) -> Result<(), LimitFault> {
        let key = format!("{part}#{}#{}", caller.tenant_id, caller.user_id);
        self.limiter.take(&key, caller.changes(), now).await
    }

    /// What counts, for limits of another kind.
    #[must_use]
    pub fn limiter(&self) -> &dyn Limiter {
        self.limiter.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use domain::id::{ClientId, FamilyId, TenantId, UserId};
    use testkit::MemoryLimiter;
    use testkit::sample::NOW;

    use super::*;

    /// Knows one token.
    struct Door(Caller);

    #[async_trait::async_trait]
    impl AccessTokenVerifier for Door {
        async fn verify(&self, token: &str, _: OffsetDateTime) -> Result<Caller, AccessFault> {
            if token == "good" { Ok(self.0.clone()) } else { Err(AccessFault::Invalid) }
        }
    }

    fn caller_of(user: &str, rate: Option<u32>) -> Caller {
        Caller {
            client_id: ClientId::parse("client").unwrap(),
            user_id: UserId::parse(user).unwrap(),
            tenant_id: TenantId::parse("acme").unwrap(),
            scopes: [Scope::Chat].into(),
            session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
            expires_at: NOW,
            rate,
        }
    }

    fn gate() -> Gate {
        Gate::new(Arc::new(Door(caller_of("ann", None))), Arc::new(MemoryLimiter::default()))
    }

    #[tokio::test]
    async fn a_token_opens_its_own_scopes() {
        let request = |token: &str| {
            let mut request = Request::default();
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            request
        };
        let gate = gate();
        assert_eq!(gate.admit(&request("good"), Scope::Chat, NOW).await.unwrap(), caller_of("ann", None));
        let refused = gate.admit(&request("good"), Scope::Files, NOW).await;
        assert!(matches!(refused, Err(AccessFault::MissingScope(Scope::Files))));
        assert!(matches!(gate.admit(&request("bad"), Scope::Chat, NOW).await, Err(AccessFault::Invalid)));
        assert!(matches!(gate.admit(&Request::default(), Scope::Chat, NOW).await, Err(AccessFault::Missing)));
    }

    #[derive(Debug, thiserror::Error)]
    enum Refused {
        #[error(transparent)]
        Access(#[from] AccessFault),
        #[error(transparent)]
        Limit(#[from] LimitFault),
    }

    #[tokio::test]
    async fn looking_is_free_and_whatever_else_counts() {
        let gate = gate();
        let request = |method: Method, token: &str| {
            let mut request = Request::default();
            *request.method_mut() = method;
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            request
        };
        let enter = async |method: Method, token: &str| -> Result<Caller, Refused> {
            gate.enter(&request(method, token), Scope::Chat, "chat", NOW).await
        };
        for _ in 0..60 {
            assert!(enter(Method::DELETE, "good").await.is_ok());
            assert!(matches!(enter(Method::POST, "bad").await, Err(Refused::Access(_))), "which counts for nobody");
        }
        assert!(matches!(enter(Method::POST, "good").await, Err(Refused::Limit(_))));
        assert!(enter(Method::GET, "good").await.is_ok());
    }

    #[tokio::test]
    async fn a_user_changes_something_sixty_times_a_minute_or_as_often_as_the_client_may() {
        let gate = gate();
        for (caller, limit) in [(caller_of("ann", None), 60), (caller_of("bob", Some(3)), 3)] {
            for n in 0..limit {
                assert!(gate.count(&caller, "chat", NOW).await.is_ok(), "{n}");
            }
            let refused = gate.count(&caller, "chat", NOW).await;
            assert!(matches!(refused, Err(LimitFault::Exhausted { retry_after_secs: 61 })), "{refused:?}");
            assert!(gate.count(&caller, "files", NOW).await.is_ok(), "another part counts for itself");
        }
    }
}
