//! How much one person may upload: so many uploads at once, so many bytes a day.

use std::collections::BTreeSet;

use time::{Date, OffsetDateTime};

use crate::id::{TenantId, UploadId, UserId};

/// How many uploads one person has open at once.
pub const OPEN_UPLOADS: usize = 20;

/// How many bytes one person begins to upload on one day, in UTC. What is given up again has been counted.
pub const BYTES_A_DAY: u64 = 50 << 30;

/// What one person has open, and began today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// By their ids: what was counted twice or left out would stay so for ever.
    pub open: BTreeSet<UploadId>,
    pub day: Date,
    /// On that day.
    pub bytes: u64,
    /// Grows by one with every change.
    pub version: u64,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("{OPEN_UPLOADS} uploads are open already; complete or abort one of them")]
    Uploads,
    #[error("more than {} GiB would be begun today", BYTES_A_DAY >> 30)]
    Bytes { retry_after_secs: u32 },
}

impl Quota {
    /// Of somebody who never uploaded.
    #[must_use]
    pub fn new(tenant_id: TenantId, user_id: UserId) -> Self {
        Self { tenant_id, user_id, open: BTreeSet::new(), day: Date::MIN, bytes: 0, version: 0 }
    }

    /// The next version, with one more upload.
    pub fn with(&self, upload_id: &UploadId, size: u64, now: OffsetDateTime) -> Result<Self, NoRoom> {
        if self.open.len() >= OPEN_UPLOADS {
            return Err(NoRoom::Uploads);
        }
        // Clocks differ a little: a day that has begun does not end again.
        let day = self.day.max(now.date());
        let bytes = if day == self.day { self.bytes } else { 0 }.saturating_add(size);
        if bytes > BYTES_A_DAY {
            let tomorrow = day.next_day().unwrap_or(day).midnight().assume_utc();
            let wait = (tomorrow - now).whole_seconds().max(1);
            return Err(NoRoom::Bytes { retry_after_secs: u32::try_from(wait).unwrap_or(u32::MAX) });
        }
        let mut open = self.open.clone();
        open.insert(upload_id.clone());
        Ok(Self { open, day, bytes, version: self.version + 1, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const EVENING: OffsetDateTime = datetime!(2026-11-25 23:59:30 UTC);

    fn upload_id(n: usize) -> UploadId {
        UploadId::parse(format!("6f9619ff-8b86-4d01-b42d-00cf4fc9{n:04x}")).unwrap()
    }

    fn nobody() -> Quota {
        Quota::new(TenantId::parse("t").unwrap(), UserId::parse("ann").unwrap())
    }

    #[test]
    fn the_twenty_first_upload_waits_for_one_to_end() {
        let full = (0..20).fold(nobody(), |quota, n| quota.with(&upload_id(n), 1, EVENING).unwrap());
        assert_eq!((full.open.len(), full.version), (20, 20));
        assert_eq!(full.with(&upload_id(20), 1, EVENING), Err(NoRoom::Uploads));
    }

    #[test]
    fn a_day_holds_so_many_bytes_and_the_next_as_many_again() {
        let spent = nobody().with(&upload_id(1), BYTES_A_DAY, EVENING).unwrap();
        assert_eq!(spent.with(&upload_id(2), 1, EVENING), Err(NoRoom::Bytes { retry_after_secs: 30 }));
        let tomorrow = spent.with(&upload_id(2), 7, EVENING + Duration::seconds(30)).unwrap();
        assert_eq!(tomorrow.bytes, 7);
        let late = tomorrow.with(&upload_id(3), BYTES_A_DAY, EVENING);
        assert!(matches!(late, Err(NoRoom::Bytes { .. })), "a clock that lags opens no second day");
    }
}
