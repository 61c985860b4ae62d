//! What a million of each thing costs, and how many cells a rate of messages needs: arithmetic over counted requests, list prices and quotas.

use std::fmt;

/// List prices of us-east-1 in USD per million, read in the middle of 2026. They change; the counts do not.
mod price {
    pub(super) const WRITE: f64 = 0.625;
    pub(super) const READ: f64 = 0.125;
    pub(super) const HTTP: f64 = 1.00;
    pub(super) const SOCKET_MESSAGE: f64 = 1.00;
    pub(super) const INVOCATION: f64 = 0.20;
    /// Gigabyte-seconds on arm64.
    pub(super) const GB_SECOND: f64 = 13.3334;
    pub(super) const FIFO: f64 = 0.50;
    pub(super) const STANDARD: f64 = 0.40;
    pub(super) const S3_PUT: f64 = 5.00;
}

/// Quotas of one account in one region, as they are before anybody asks for more.
mod quota {
    /// Requests per second of all HTTP APIs together.
    pub(super) const HTTP: f64 = 10_000.0;
    /// Invocations at a time.
    pub(super) const CONCURRENCY: f64 = 1_000.0;
    /// Requests per second for each unit of concurrency, however short they are.
    pub(super) const PER_CONCURRENCY: f64 = 10.0;
    /// Write units per second of one table.
    pub(super) const TABLE_WRITES: f64 = 40_000.0;
    /// Write units per second of one partition.
    pub(super) const PARTITION_WRITES: f64 = 1_000.0;
    /// Requests per second for each API of a FIFO queue in high-throughput mode, in the largest regions.
    pub(super) const FIFO: f64 = 70_000.0;
}

/// How full a cell is filled: the rest is for peaks and for a neighbour that fails.
const FILL: f64 = 0.8;

/// What one thing uses. Requests are AWS requests of functions; batched ones count by their share.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    http: f64,
    invocations: f64,
    /// Gigabytes times milliseconds.
    gb_ms: f64,
    writes: f64,
    reads: f64,
    fifo: f64,
    standard: f64,
    s3_puts: f64,
    socket_messages: f64,
}

impl Use {
    /// USD for a million of it.
    fn per_million(&self) -> f64 {
        let parts = [
            (self.http, price::HTTP),
            (self.invocations, price::INVOCATION),
            (self.gb_ms / 1_000.0, price::GB_SECOND),
            (self.writes, price::WRITE),
            (self.reads, price::READ),
            (self.fifo, price::FIFO),
            (self.standard, price::STANDARD),
            (self.s3_puts, price::S3_PUT),
            (self.socket_messages, price::SOCKET_MESSAGE),
        ];
        parts.iter().map(|(amount, price)| amount * price).sum()
    }

    fn and(self, other: Self) -> Self {
        Self {
            http: self.http + other.http,
            invocations: self.invocations + other.invocations,
            gb_ms: self.gb_ms + other.gb_ms,
            writes: self.writes + other.writes,
            reads: self.reads + other.reads,
            fifo: self.fifo + other.fifo,
            standard: self.standard + other.standard,
            s3_puts: self.s3_puts + other.s3_puts,
            socket_messages: self.socket_messages + other.socket_messages,
        }
    }
}

/// What a function is given, and how long it runs: mostly waits for AWS, some milliseconds each.
fn lambda(megabytes: f64, milliseconds: f64, batch: f64) -> Use {
    Use { invocations: 1.0 / batch, gb_ms: megabytes / 1_024.0 * milliseconds / batch, ..Use::default() }
}

/// Write units of an item, and of one inside a transaction.
fn write(bytes: u32) -> f64 {
    f64::from(bytes.div_ceil(1_024))
}

fn in_transaction(bytes: u32) -> f64 {
    2.0 * write(bytes)
}

/// Read units of a consistent read.
fn read(bytes: u32) -> f64 {
    f64::from(bytes.div_ceil(4_096))
}

/// Two AWS requests: the inbox item, with its entry in the index, and the bell.
fn card_click() -> Use {
    Use { http: 1.0, writes: write(1_000) + write(100), fifo: 1.0, ..lambda(256.0, 15.0, 1.0) }
}

/// Three AWS requests: the limit, the transaction of three items with its entry in the index, and the bell.
fn message(conversation_bytes: u32) -> Use {
    let transaction = in_transaction(300) + in_transaction(conversation_bytes) + in_transaction(800);
    Use { http: 1.0, writes: write(300) + transaction + write(100), fifo: 1.0, ..lambda(256.0, 25.0, 1.0) }
}

/// What follows a message: the relay's bell, which the queue drops; the push, which reads state, message, members and their slots, writes
/// its watermark and takes the conversation off the index; and a socket message for each recipient who is there.
fn delivery(conversation_bytes: u32, recipients: f64) -> Use {
    let relay = Use { fifo: 1.0, ..lambda(256.0, 20.0, 10.0) };
    let push = Use {
        // A bell is received and deleted, in batches that are seldom full.
        fifo: 2.0,
        reads: read(500) + read(800) + read(conversation_bytes) + (recipients + 1.0) * read(500),
        writes: write(500) + write(conversation_bytes) + write(100),
        socket_messages: recipients,
        ..lambda(256.0, 30.0, 1.0)
    };
    relay.and(push)
}

/// One AWS request: the queue message. What follows is shared by a batch of a hundred: a raw object, two of Parquet, one of the log.
fn webhook() -> Use {
    let intake = Use { http: 1.0, standard: 1.0, ..lambda(256.0, 8.0, 1.0) };
    let append = Use { standard: 2.0 / 10.0, s3_puts: 4.0 / 100.0, ..lambda(1_024.0, 500.0, 100.0) };
    // A line's own item keeps it from being counted twice.
    intake.and(append).and(Use { writes: in_transaction(200), ..Use::default() })
}

/// What a rate of messages needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cells {
    per_second: f64,
    /// Accounts or regions, each a whole deployment with conversations of its own.
    cells: f64,
    per_cell: f64,
    concurrency: f64,
    table_writes: f64,
    partitions: f64,
    fifo: f64,
}

/// Cells are as many as HTTP APIs must be; the rest follows for each.
fn cells(per_minute: f64, recipients: f64) -> Cells {
    let per_second = per_minute / 60.0;
    let cells = (per_second / (quota::HTTP * FILL)).ceil().max(1.0);
    let per_cell = per_second / cells;
    let (path, rest) = (message(1_000), delivery(1_000, recipients));
    let table_writes = per_cell * (path.writes + rest.writes);
    // The function waits 25 ms for AWS; each unit of concurrency takes ten requests a second, however short.
    let concurrency = (per_cell * 0.025).max(per_cell / quota::PER_CONCURRENCY) + per_cell * 0.030;
    Cells {
        per_second,
        cells,
        per_cell,
        concurrency,
        table_writes,
        partitions: (table_writes / quota::PARTITION_WRITES).ceil(),
        fifo: per_cell * 2.0,
    }
}

/// The paper's figures.
#[derive(Debug)]
pub(crate) struct Paper {
    per_minute: f64,
    recipients: f64,
}

impl Paper {
    pub(crate) fn of(per_minute: u32, recipients: u32) -> Self {
        Self { per_minute: f64::from(per_minute), recipients: f64::from(recipients) }
    }
}

impl fmt::Display for Paper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipients = self.recipients;
        writeln!(f, "USD per million, list prices of us-east-1 in the middle of 2026")?;
        let delivered = message(1_000).and(delivery(1_000, recipients));
        for (what, amount) in [
            ("card click, request path", card_click()),
            ("message, request path", message(1_000)),
            ("message in a group of 100 (6 KB), request path", message(6_000)),
            ("message, delivered", delivered),
            ("webhook event, in the lake", webhook()),
        ] {
            let (writes, reads) = (amount.writes, amount.reads);
            writeln!(f, "  {what:<48} {:>7.2}   {writes:.2} WRU, {reads:.0} RRU", amount.per_million())?;
        }
        writeln!(f, "  (delivered: to {recipients:.0} open sockets)")?;
        writeln!(f)?;

        let need = cells(self.per_minute, recipients);
        writeln!(f, "{:.0} messages a minute = {:.0} a second", self.per_minute, need.per_second)?;
        let row = |f: &mut fmt::Formatter<'_>, what: &str, need: f64, quota: f64| {
            writeln!(f, "  {what:<48} {need:>9.0}   default {quota:.0}, {:.1}x", need / quota)
        };
        writeln!(f, "  {:<48} {:>9.0}", "cells, each filled to 80 % of its HTTP quota", need.cells)?;
        row(f, "in each: HTTP requests per second", need.per_cell, quota::HTTP)?;
        row(f, "in each: Lambda concurrency", need.concurrency, quota::CONCURRENCY)?;
        row(f, "in each: write units per second of ChatTable", need.table_writes, quota::TABLE_WRITES)?;
        writeln!(f, "  {:<48} {:>9.0}", "in each: partitions of ChatTable, at least", need.partitions)?;
        row(f, "in each: sends per second to PushQueue", need.fifo, quota::FIFO)?;
        let day = need.per_second * 86_400.0 / 1e6;
        let cost = |amount: Use| amount.per_million() * day / 1_000.0;
        writeln!(f, "  {:<48} {:>8.1}k", "USD a day, sustained, delivered", cost(delivered))?;
        let table = Use { writes: delivered.writes, ..Use::default() };
        let sockets = Use { socket_messages: delivered.socket_messages, ..Use::default() };
        writeln!(f, "  {:<48} {:>8.1}k", "  of it ChatTable's writes", cost(table))?;
        write!(f, "  {:<48} {:>8.1}k", "  of it socket messages", cost(sockets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(value: f64, expected: f64) {
        assert!((value - expected).abs() < expected.abs() * 0.001 + 1e-9, "{value}, not {expected}");
    }

    #[test]
    fn units_are_rounded_up_and_doubled_in_transactions() {
        assert_eq!([write(1), write(1_024), write(1_025)], [1.0, 1.0, 2.0]);
        assert_eq!([in_transaction(1), in_transaction(1_025)], [2.0, 4.0]);
        assert_eq!([read(1), read(4_096), read(4_097)], [1.0, 1.0, 2.0]);
    }

    #[test]
    fn what_is_used_is_paid_once() {
        about(Use { writes: 6.0, ..Use::default() }.per_million(), 3.75);
        about(lambda(1_024.0, 1_000.0, 1.0).per_million(), 0.20 + 13.3334);
        about(lambda(1_024.0, 1_000.0, 10.0).per_million(), (0.20 + 13.3334) / 10.0);
        let (one, two) = (card_click(), webhook());
        about(one.and(two).per_million(), one.per_million() + two.per_million());
    }

    #[test]
    fn ten_million_a_minute_write_a_million_units_a_second_for_the_transaction_alone() {
        let transaction = Use { writes: 6.0, ..Use::default() };
        let a_day = 10e6 / 60.0 * 86_400.0 / 1e6;
        about(10e6 / 60.0 * transaction.writes, 1e6);
        about(transaction.per_million() * a_day, 54_000.0);
    }

    #[test]
    fn a_large_group_pays_for_its_size_with_every_message() {
        about(message(6_000).writes - message(1_000).writes, 2.0 * 5.0);
    }

    #[test]
    fn cells_keep_every_http_api_below_its_quota() {
        for per_minute in [1.0, 60_000.0, 480_000.0, 480_060.0, 10e6, 100e6] {
            let need = cells(per_minute, 2.0);
            assert!(need.per_cell <= quota::HTTP * FILL, "{need:?}");
            about(need.cells * need.per_cell, per_minute / 60.0);
            let fewer = need.cells - 1.0;
            assert!(fewer < 1.0 || per_minute / 60.0 / fewer > quota::HTTP * FILL, "no cell too many: {need:?}");
        }
        assert_eq!(cells(10e6, 2.0).cells, 21.0);
    }

    #[test]
    fn every_recipient_costs_and_every_message_does() {
        let costs: Vec<f64> = (0..5).map(|n| delivery(1_000, f64::from(n)).per_million()).collect();
        assert!(costs.windows(2).all(|pair| pair[1] - pair[0] > price::SOCKET_MESSAGE), "{costs:?}");
    }
}
