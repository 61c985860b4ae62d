//! Writes so many events, one a line, as the first lake had them: something to import or to post.
//!
//! `cargo run --release -p lake-sample --example events -- 1000000 > events.jsonl`

use std::error::Error;
use std::io::{BufWriter, Write as _, stdout};

use lake_sample::Plan;

/// 2026-11-20 in UTC.
const FROM: i64 = 1_795_132_800;

fn main() -> Result<(), Box<dyn Error>> {
    let events = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let mut output = BufWriter::new(stdout().lock());
    for event in (Plan { events, ..Plan::first_lake(1, FROM) }).events() {
        output.write_all(&event.body)?;
        output.write_all(b"\n")?;
    }
    Ok(output.flush()?)
}
