//! What could not become a row, kept with the reason and everything that came, so that it can be sent again once the reason is gone.

use serde::{Deserialize, Serialize};

use crate::lake::intake::Intake;
use crate::lake::partition::Partition;

/// Where such events lie.
pub const QUARANTINE_PREFIX: &str = "quarantine/v1/";

/// An event that is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// A word for programs: `not_json`, `no_id`, `conflict`, ..
    pub reason: String,
    /// For people: what exactly.
    pub detail: String,
    /// The raw object that had it, and its line there, from 1.
    pub raw_object: String,
    pub raw_line: u64,
    /// The event as it was accepted, byte for byte.
    pub intake: Intake,
}

impl Kept {
    /// Where an event lies, by the hash of [`Self::identity`] in hex: below the day on which it was received.
    #[must_use]
    pub fn key(intake: &Intake, hash: &str) -> String {
        let day = Partition::of(intake.received_at).map_or_else(|| "unknown".to_owned(), |day| day.to_string());
        format!("{QUARANTINE_PREFIX}dt={day}/{hash}.json")
    }

    /// What makes two events the same: one that comes again lies where it lay.
    #[must_use]
    pub fn identity(intake: &Intake) -> String {
        format!("{}\n{}", intake.source, intake.request_id)
    }

    /// The event as it is sent again: a delivery of its own, since the gate knows the first one, and the same one however often it is sent.
    #[must_use]
    pub fn again(&self) -> Intake {
        Intake { request_id: format!("{}.again", self.intake.request_id), ..self.intake.clone() }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::lake::source::SourceName;

    #[test]
    fn what_is_kept_reads_back_and_goes_out_again_under_a_name_of_its_own() {
        let intake = Intake {
            source: SourceName::parse("wechat").unwrap(),
            request_id: "r-1".to_owned(),
            received_at: datetime!(2026-11-21 23:30 -2),
            content_type: None,
            content_encoding: None,
            body: b"\xff{".to_vec(),
        };
        let kept = Kept {
            reason: "not_utf8".to_owned(),
            detail: "坏的".to_owned(),
            raw_object: "raw/v1/x".to_owned(),
            raw_line: 7,
            intake,
        };
        assert_eq!(serde_json::from_slice::<Kept>(&serde_json::to_vec(&kept).unwrap()).unwrap(), kept);
        assert_eq!(Kept::key(&kept.intake, "ab"), "quarantine/v1/dt=2026-11-22/ab.json");
        let again = kept.again();
        assert_eq!((again.request_id.as_str(), &again.body), ("r-1.again", &kept.intake.body));
        assert_eq!(again, kept.again());
        assert_ne!(Kept::identity(&again), Kept::identity(&kept.intake));
    }
}
