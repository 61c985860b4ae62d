//! Profiles follow the organisation's directory, whoever left it is let go, and what an earlier key sealed is sealed anew.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use crate::app::AppFault;
use crate::authorize::VendorFault;
use crate::fault::{PortFault, chain};
use crate::id::{AppId, OpenId};
use crate::job::Bookmarks;
use crate::seal::SealFault;
use crate::token::UserToken;
use crate::user_tokens::{TokenFault, UserTokens};

/// How often everybody is looked up.
pub const SYNC_EVERY: Duration = Duration::hours(6);

/// How many people the directory is asked for at once.
const BATCH: u32 = 50;

/// The name of the bookmark.
const JOB: &str = "sync_users";

/// What one run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    pub seen: usize,
    pub changed: usize,
    /// Resigned or frozen: their tokens lapsed, without a card.
    pub left: usize,
}

impl UserTokens {
    /// Goes on where the last run stopped, until everybody was looked up or `until` has come. Once everybody was, the next round
    /// begins [`SYNC_EVERY`] after this one did.
    pub async fn sync(&self, bookmarks: &dyn Bookmarks, until: OffsetDateTime) -> Result<Synced, TokenFault> {
        let mut place = Place::read(bookmarks.bookmark(JOB).await?, self.clock.now());
        let mut synced = Synced::default();
        if self.clock.now() < place.begins_at {
            return Ok(synced);
        }
        while self.clock.now() < until {
            let page = self.tokens.page(place.cursor.take(), BATCH).await?;
            self.sync_page(page.tokens, &mut synced).await?;
            let done = page.cursor.is_none();
            place.cursor = page.cursor;
            if done {
                place.begins_at += SYNC_EVERY;
            }
            bookmarks.set_bookmark(JOB, Some(&place.write())).await?;
            if done {
                break;
            }
        }
        Ok(synced)
    }

    /// The pair sealed under the present key, if an earlier one sealed it; nothing if the record changed meanwhile.
    async fn sealed_anew(&self, token: UserToken) -> Result<Option<UserToken>, TokenFault> {
        let pair = match self.sealer.rewrap(token.place(), &token.pair).await {
            Ok(Some(pair)) => pair,
            // A damaged one is found out by whoever needs it.
            Ok(None) | Err(SealFault::Damaged) => return Ok(Some(token)),
            Err(fault) => return Err(TokenFault::Seal(fault)),
        };
        let after = UserToken { pair, version: token.version + 1, ..token.clone() };
        match self.tokens.replace(&token, &after, None).await {
            Ok(()) => {
                tracing::info!(lark.app_id = %after.app_id, lark.open_id = %after.open_id, "Sealed anew");
                Ok(Some(after))
            }
            Err(PortFault::Conflict { .. }) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn sync_page(&self, tokens: Vec<UserToken>, synced: &mut Synced) -> Result<(), TokenFault> {
        let mut groups: BTreeMap<(AppId, String), Vec<UserToken>> = BTreeMap::new();
        for token in tokens {
            let Some(token) = self.sealed_anew(token).await?.filter(|token| token.lapsed.is_none()) else { continue };
            let group = (token.app_id.clone(), token.profile.tenant_key.clone());
            groups.entry(group).or_default().push(token);
        }
        for ((app_id, tenant_key), tokens) in groups {
            let app = match self.apps.enabled(&app_id, self.clock.now()).await {
                Ok(app) => app,
                Err(AppFault::Unknown(_) | AppFault::Disabled(_)) => continue,
                Err(fault) => return Err(fault.into()),
            };
            let open_ids: Vec<&OpenId> = tokens.iter().map(|token| &token.open_id).collect();
            let listed = match self.renewal.directory(&app, Some(&tenant_key), &open_ids).await {
                Ok(listed) => listed,
                Err(fault @ VendorFault::Unavailable(_)) => return Err(fault.into()),
                // An app that may not read the directory has its profiles synced at each refresh all the same.
                Err(fault) => {
                    tracing::info!(lark.app_id = %app_id, error = %chain(&fault), "The directory cannot be read");
                    continue;
                }
            };
            synced.seen += tokens.len();
            for person in listed {
                let Some(token) = tokens.iter().find(|token| token.open_id == person.open_id) else { continue };
                let (after, count) = match token.with_profile(person.profile) {
                    _ if person.left => (token.lapse("left", self.clock.now()), &mut synced.left),
                    Some(after) => (after, &mut synced.changed),
                    None => continue,
                };
                match self.tokens.replace(token, &after, None).await {
                    Ok(()) => *count += 1,
                    // It changed under way, and is looked up in the next round.
                    Err(PortFault::Conflict { .. }) => {}
                    Err(fault) => return Err(fault.into()),
                }
            }
        }
        Ok(())
    }
}

/// Where a round stands: `<when it began or begins>|<cursor>`.
struct Place {
    begins_at: OffsetDateTime,
    cursor: Option<String>,
}

impl Place {
    fn read(text: Option<String>, now: OffsetDateTime) -> Self {
        let parsed = text.as_deref().and_then(|text| {
            let (at, cursor) = text.split_once('|')?;
            let begins_at = OffsetDateTime::from_unix_timestamp(at.parse().ok()?).ok()?;
            Some(Self { begins_at, cursor: Some(cursor.to_owned()).filter(|cursor| !cursor.is_empty()) })
        });
        match parsed {
            // Rounds that were missed are not made up for.
            Some(place) if now < place.begins_at + SYNC_EVERY => place,
            Some(Self { cursor, .. }) => Self { begins_at: now, cursor },
            None => Self { begins_at: now, cursor: None },
        }
    }

    fn write(&self) -> String {
        format!("{}|{}", self.begins_at.unix_timestamp(), self.cursor.as_deref().unwrap_or_default())
    }
}
