//! The authorization server's ports in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::access::{AccessFault, AccessToken, AccessTokenVerifier, Caller, PublicKey, TokenSigner};
use domain::fault::PortFault;
use domain::id::{ClientId, FamilyId};
use domain::oauth::{Client, ClientStore, Family, FamilyStore, RefreshSeal, RefreshToken, SecretHash};
use domain::seal::{SealFault, Sealed};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::memory::{conflict, unavailable};

/// Clients and families in memory.
#[derive(Debug, Default)]
pub struct MemoryAuth {
    clients: Mutex<BTreeMap<ClientId, Client>>,
    families: Mutex<HashMap<FamilyId, Family>>,
}

impl MemoryAuth {
    fn families(&self) -> MutexGuard<'_, HashMap<FamilyId, Family>> {
        self.families.lock().expect("no test panics while it holds the families")
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<ClientId, Client>> {
        self.clients.lock().expect("no test panics while it holds the clients")
    }
}

#[async_trait]
impl ClientStore for MemoryAuth {
    async fn get(&self, client_id: &ClientId) -> Result<Option<Client>, PortFault> {
        Ok(self.clients().get(client_id).cloned())
    }

    async fn put(&self, client: &Client) -> Result<(), PortFault> {
        let mut clients = self.clients();
        if client.version != clients.get(&client.client_id).map_or(0, |client| client.version) + 1 {
            return conflict("put client");
        }
        clients.insert(client.client_id.clone(), client.clone());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Client>, PortFault> {
        Ok(self.clients().values().cloned().collect())
    }
}

#[async_trait]
impl FamilyStore for MemoryAuth {
    async fn create(&self, family: &Family) -> Result<(), PortFault> {
        let mut families = self.families();
        if families.contains_key(&family.family_id) {
            return conflict("create family");
        }
        families.insert(family.family_id.clone(), family.clone());
        Ok(())
    }

    async fn get(&self, family_id: &FamilyId) -> Result<Option<Family>, PortFault> {
        Ok(self.families().get(family_id).cloned())
    }

    async fn rotate(&self, family: &Family) -> Result<(), PortFault> {
        match self.families().get_mut(&family.family_id) {
            Some(stored) if stored.counter + 1 == family.counter && stored.revoked_at.is_none() => {
                *stored = family.clone();
                Ok(())
            }
            _ => conflict("rotate family"),
        }
    }

    async fn revoke(&self, family_id: &FamilyId, now: OffsetDateTime) -> Result<(), PortFault> {
        if let Some(family) = self.families().get_mut(family_id) {
            family.revoked_at.get_or_insert(now);
        }
        Ok(())
    }
}

/// Refresh tokens that show what they are made of.
#[derive(Debug, Clone, Copy)]
pub struct PlainRefreshSeal;

impl RefreshSeal for PlainRefreshSeal {
    fn hash(&self, secret: &str) -> SecretHash {
        SecretHash(format!("hash of {secret}"))
    }

    fn seal(&self, token: &RefreshToken, successor: &RefreshToken) -> Result<Sealed, SealFault> {
        Ok(Sealed(format!("{} for {}", successor.text.expose_secret(), token.text.expose_secret())))
    }

    fn open(&self, token: &RefreshToken, sealed: &Sealed) -> Result<SecretString, SealFault> {
        let (successor, of) = sealed.0.split_once(" for ").ok_or(SealFault::Damaged)?;
        if of == token.text.expose_secret() { Ok(successor.into()) } else { Err(SealFault::Damaged) }
    }
}

/// Access tokens that are numbers.
#[derive(Debug, Default)]
pub struct MemoryTokens {
    signed: Mutex<Vec<Caller>>,
    /// While it is set, nothing is signed.
    pub down: AtomicBool,
}

#[async_trait]
impl TokenSigner for MemoryTokens {
    async fn sign(&self, token: &AccessToken) -> Result<SecretString, PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("sign");
        }
        let mut signed = self.signed.lock().expect("no test panics while it holds the tokens");
        signed.push(token.caller.clone());
        Ok(format!("access-{}", signed.len() - 1).into())
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, PortFault> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl AccessTokenVerifier for MemoryTokens {
    async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Caller, AccessFault> {
        let number = token.strip_prefix("access-").and_then(|number| number.parse::<usize>().ok());
        let signed = self.signed.lock().expect("no test panics while it holds the tokens");
        let caller = number.and_then(|number| signed.get(number)).ok_or(AccessFault::Invalid)?;
        if now < caller.expires_at { Ok(caller.clone()) } else { Err(AccessFault::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryAuth;
    use crate::contract;

    #[tokio::test]
    async fn keeps_the_contract_of_clients() {
        contract::clients(&MemoryAuth::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_families() {
        contract::families(&MemoryAuth::default()).await;
    }
}
