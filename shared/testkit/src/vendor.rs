//! A vendor in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use domain::app::OpenApp;
use domain::authorize::{Approval, CardView, Vendor, VendorFault};
use domain::id::{ChatId, MessageId, OpenId};
use domain::session::{Session, SessionStatus};
use domain::token::{Grant, Profile, TokenPair};
use domain::user_tokens::{Listed, Renewal};
use secrecy::SecretString;
use time::Duration;

use crate::sample;

/// A vendor that takes one code, once, and remembers what its cards showed.
#[derive(Debug, Default)]
pub struct MemoryVendor {
    /// While it is, nothing is answered.
    pub down: AtomicBool,
    /// Whose approval the code is; `ou_ann` by default.
    pub owner: Option<&'static str>,
    /// How often a code was shown; more often than there are `codes` is refused.
    pub exchanges: AtomicU32,
    /// How many codes there are; none counts as one.
    pub codes: u32,
    /// How many pairs were refreshed.
    pub refreshed: AtomicU32,
    /// Whether the card is gone.
    pub recalled: bool,
    /// What was sent (`sent`) and what each message was changed to, in order.
    pub shown: Mutex<Vec<(String, SessionStatus)>>,
}

impl MemoryVendor {
    /// What [`Self::shown`] holds.
    #[must_use]
    pub fn cards(&self) -> Vec<(String, SessionStatus)> {
        self.shown.lock().expect("not poisoned").clone()
    }

    /// What [`Self::refreshed`] holds.
    #[must_use]
    pub fn refreshes(&self) -> u32 {
        self.refreshed.load(Ordering::SeqCst)
    }

    fn must_be_up(&self) -> Result<(), VendorFault> {
        if self.down.load(Ordering::SeqCst) { Err(VendorFault::Unavailable("silent".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Vendor for MemoryVendor {
    async fn exchange(&self, _app: &OpenApp, _approval: &Approval) -> Result<Grant, VendorFault> {
        self.must_be_up()?;
        if self.exchanges.fetch_add(1, Ordering::SeqCst) > self.codes.saturating_sub(1) {
            return Err(VendorFault::Refused { code: 20_065, message: "code already used".to_owned() });
        }
        let pair = TokenPair { access_token: "u-secret".into(), refresh_token: Some("r-secret".into()) };
        let scopes = vec!["offline_access".to_owned()];
        Ok(Grant { pair, scopes, expires_in: Duration::hours(2), refresh_expires_in: Some(Duration::days(7)) })
    }

    async fn profile(&self, _app: &OpenApp, _token: &SecretString) -> Result<(OpenId, Profile), VendorFault> {
        self.must_be_up()?;
        let profile = Profile { tenant_key: "t1".to_owned(), ..Profile::default() };
        Ok((sample::open_id(self.owner.unwrap_or("ou_ann")), profile))
    }

    async fn send_card(&self, _app: &OpenApp, card: CardView<'_>) -> Result<MessageId, VendorFault> {
        self.must_be_up()?;
        self.shown.lock().expect("not poisoned").push(("sent".to_owned(), card.session.status));
        Ok(MessageId::parse("om_1").unwrap())
    }

    async fn update_card(
        &self,
        _app: &OpenApp,
        id: &MessageId,
        card: CardView<'_>,
        _click: Option<&SecretString>,
    ) -> Result<(), VendorFault> {
        self.must_be_up()?;
        if self.recalled {
            return Err(VendorFault::Refused { code: 230_011, message: "recalled".to_owned() });
        }
        self.shown.lock().expect("not poisoned").push((id.to_string(), card.session.status));
        Ok(())
    }

    async fn tell_operators(&self, _app: &OpenApp, chat_id: &ChatId, session: &Session) -> Result<(), VendorFault> {
        self.must_be_up()?;
        self.shown.lock().expect("not poisoned").push((chat_id.to_string(), session.status));
        Ok(())
    }
}

#[async_trait]
impl Renewal for MemoryVendor {
    async fn refresh(&self, _app: &OpenApp, _refresh_token: &SecretString) -> Result<Grant, VendorFault> {
        self.must_be_up()?;
        let n = self.refreshed.fetch_add(1, Ordering::SeqCst) + 2;
        let pair = TokenPair { access_token: format!("u{n}").into(), refresh_token: Some(format!("r{n}").into()) };
        let scopes = vec!["offline_access".to_owned()];
        Ok(Grant { pair, scopes, expires_in: Duration::hours(2), refresh_expires_in: Some(Duration::days(7)) })
    }

    async fn directory(
        &self,
        _app: &OpenApp,
        _tenant_key: Option<&str>,
        _open_ids: &[&OpenId],
    ) -> Result<Vec<Listed>, VendorFault> {
        self.must_be_up()?;
        Ok(Vec::new())
    }

    async fn check(&self, _app: &OpenApp) -> Result<(), VendorFault> {
        self.must_be_up()
    }
}
