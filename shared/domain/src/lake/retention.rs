//! How long each thing of the lake is kept. The order of these ages is what makes every replay harmless; a test holds it.

use time::Duration;

/// A line is known to have counted for so long.
pub const GATE: Duration = Duration::days(8);

/// A raw object whose batch was committed is kept for so long after it was written.
pub const RAW: Duration = Duration::days(7);

/// A raw object that was never committed is forgotten at this age, by the bucket itself: nothing can claim its lines any more.
pub const RAW_AT_MOST: Duration = Duration::days(14);

/// What was too large for the queue outlives any message that names it: queues and dead letters keep 14 days.
pub const INBOX: Duration = Duration::days(15);

/// What could not become a row.
pub const QUARANTINE: Duration = Duration::days(365);

/// A file that was merged away stays for those who still read it, and for replays to be recognised by.
pub const TOMBSTONES: Duration = Duration::days(8);

/// A file that no version names is an orphan at this age; no function runs as long.
pub const ORPHANS: Duration = Duration::hours(24);

/// Versions of a table that can be travelled back to.
pub const LOG: Duration = Duration::days(30);

/// A day is sealed so long after its end.
pub const SEAL_AFTER: Duration = Duration::hours(2);

/// A day is archived at this age.
pub const ARCHIVE_AFTER: Duration = Duration::days(90);

/// A raw object that is in no log at this age was left behind.
pub const RECONCILE_AFTER: Duration = Duration::days(1);

const _: () = {
    const fn longer(a: Duration, b: Duration) -> bool {
        a.whole_seconds() > b.whole_seconds()
    }
    // A replay of any raw object that is kept meets the gate, or the files that it became, dead or alive.
    assert!(longer(GATE, RAW) && longer(TOMBSTONES, RAW));
    // Whoever finds a line claimed can still carry out the batch that claimed it: its object outlives the claim.
    assert!(longer(RAW_AT_MOST, GATE));
    // What was left behind is found while there is time to replay it.
    assert!(longer(GATE, RECONCILE_AFTER));
    assert!(longer(LOG, TOMBSTONES));
};
