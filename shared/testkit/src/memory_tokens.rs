//! Tokens in memory.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::id::{AppId, OpenId};
use domain::job::Bookmarks;
use domain::seal::Sealed;
use domain::session::Session;
use domain::tenant_token::{TenantToken, TenantTokenStore};
use domain::token::{Lease, Page, TokenStore, UserToken};
use time::OffsetDateTime;

use crate::memory::{MemoryTable, conflict};

fn same(a: &UserToken, b: &UserToken) -> bool {
    (&a.session_id, a.version) == (&b.session_id, b.version)
}

#[async_trait]
impl TokenStore for MemoryTable {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault> {
        Ok(self.lock().tokens.get(&(app_id.clone(), open_id.clone())).cloned())
    }

    async fn lease(
        &self,
        token: &UserToken,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<UserToken>, PortFault> {
        let mut tables = self.lock();
        let key = (token.app_id.clone(), token.open_id.clone());
        let Some(stored) = tables.tokens.get(&key).cloned() else { return Ok(Lease::Gone) };
        if !same(&stored, token) || tables.leases.get(&key).is_some_and(|until| now < *until) {
            return Ok(Lease::Held(stored));
        }
        tables.leases.insert(key, until);
        Ok(Lease::Taken)
    }

    async fn replace(&self, before: &UserToken, after: &UserToken, ask: Option<&Session>) -> Result<(), PortFault> {
        let mut tables = self.lock();
        let key = (after.app_id.clone(), after.open_id.clone());
        if !tables.tokens.get(&key).is_some_and(|stored| same(stored, before)) {
            return conflict("replace token");
        }
        if ask.is_some_and(|ask| tables.sessions.contains_key(&ask.session_id)) {
            return conflict("replace token");
        }
        tables.leases.remove(&key);
        tables.tokens.insert(key, after.clone());
        if let Some(ask) = ask {
            tables.keep_ask(ask);
        }
        Ok(())
    }

    async fn forget(&self, token: &UserToken) -> Result<(), PortFault> {
        let mut tables = self.lock();
        let key = (token.app_id.clone(), token.open_id.clone());
        if tables.tokens.get(&key).is_some_and(|stored| same(stored, token)) {
            tables.tokens.remove(&key);
        }
        Ok(())
    }

    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<(AppId, OpenId)>, PortFault> {
        let tables = self.lock();
        let mut due: Vec<&UserToken> = tables.tokens.values().filter(|token| token.due_at() <= now).collect();
        due.sort_by_key(|token| token.due_at());
        Ok(due.into_iter().take(limit as usize).map(|token| (token.app_id.clone(), token.open_id.clone())).collect())
    }

    async fn page(&self, cursor: Option<String>, limit: u32) -> Result<Page, PortFault> {
        let tables = self.lock();
        let mut all: Vec<(String, &UserToken)> =
            tables.tokens.values().map(|token| (format!("{} {}", token.app_id, token.open_id), token)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.retain(|(key, _)| cursor.as_ref().is_none_or(|cursor| key > cursor));
        let more = all.len() > limit as usize;
        all.truncate(limit as usize);
        let cursor = all.last().filter(|_| more).map(|(key, _)| key.clone());
        Ok(Page { tokens: all.into_iter().map(|(_, token)| token.clone()).collect(), cursor })
    }
}

#[async_trait]
impl TenantTokenStore for MemoryTable {
    async fn get(&self, app_id: &AppId, tenant_key: &str) -> Result<Option<TenantToken>, PortFault> {
        Ok(self.lock().tenant_tokens.get(&(app_id.clone(), tenant_key.to_owned())).cloned())
    }

    async fn lease(
        &self,
        (app_id, tenant_key): (&AppId, &str),
        version: u64,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<Option<TenantToken>>, PortFault> {
        let mut tables = self.lock();
        let key = (app_id.clone(), tenant_key.to_owned());
        let stored = tables.tenant_tokens.get(&key).cloned();
        let same = stored.as_ref().map_or(0, |stored| stored.version) == version;
        if !same || tables.tenant_leases.get(&key).is_some_and(|until| now < *until) {
            return Ok(Lease::Held(stored));
        }
        tables.tenant_leases.insert(key, until);
        Ok(Lease::Taken)
    }

    async fn keep(&self, token: &TenantToken) -> Result<(), PortFault> {
        let mut tables = self.lock();
        let key = (token.app_id.clone(), token.tenant_key.clone());
        if tables.tenant_tokens.get(&key).map_or(0, |stored| stored.version) + 1 != token.version {
            return conflict("put tenant token");
        }
        tables.tenant_leases.remove(&key);
        tables.tenant_tokens.insert(key, token.clone());
        Ok(())
    }

    async fn release(&self, app_id: &AppId, tenant_key: &str) -> Result<(), PortFault> {
        self.lock().tenant_leases.remove(&(app_id.clone(), tenant_key.to_owned()));
        Ok(())
    }

    async fn ticket(&self, app_id: &AppId) -> Result<Option<Sealed>, PortFault> {
        Ok(self.lock().tickets.get(app_id).map(|(ticket, _)| ticket.clone()))
    }

    async fn put_ticket(&self, app_id: &AppId, ticket: &Sealed, issued_at: OffsetDateTime) -> Result<(), PortFault> {
        let mut tables = self.lock();
        if tables.tickets.get(app_id).is_none_or(|(_, newest)| *newest <= issued_at) {
            tables.tickets.insert(app_id.clone(), (ticket.clone(), issued_at));
        }
        Ok(())
    }
}

#[async_trait]
impl Bookmarks for MemoryTable {
    async fn bookmark(&self, job: &str) -> Result<Option<String>, PortFault> {
        Ok(self.lock().bookmarks.get(job).cloned())
    }

    async fn set_bookmark(&self, job: &str, place: Option<&str>) -> Result<(), PortFault> {
        let mut tables = self.lock();
        match place {
            Some(place) => tables.bookmarks.insert(job.to_owned(), place.to_owned()),
            None => tables.bookmarks.remove(job),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::MemoryTable;
    use crate::contract_tokens as contract;

    #[tokio::test]
    async fn keeps_the_contract_of_user_tokens() {
        contract::user_tokens(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_tenant_tokens() {
        contract::tenant_tokens(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_asking() {
        contract::asking(&MemoryTable::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_bookmarks() {
        contract::bookmarks(&MemoryTable::default()).await;
    }
}
