//! `skylark lake query`, `count`, `get`, `contact` and `dump`: what the tables hold.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use domain::lake::Kind;
use domain::lake::query::{MAX_PAGE_ROWS, PAGE_ROWS, instant};
use lake::Lake;
use lake_formats::Rows;
use lake_reader::{Filter, Query, Reader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde_json::json;
use time::OffsetDateTime;

use crate::fault::{CliFault, say, say_json};

/// What a table on a screen has room for.
const TABLE_COLUMNS: [&str; 6] = ["create_time", "msg_id", "from_username", "chatroom_sender", "msg_type", "content"];

/// A longer text is cut there.
const CELL: usize = 48;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skylark lake query --start 2026-11-05 --end 2026-11-06 --chatroom 47820391@chatroom
  skylark lake query --all --columns msg_id,create_time,content --format csv --output messages.csv")]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only these columns, with commas between; by default all, or what a table has room for.
    #[arg(long, value_parser = columns)]
    columns: Option<Columns>,
    /// The most rows.
    #[arg(long, default_value_t = PAGE_ROWS as u64, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// How the rows are written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write them into this file.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Which messages.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Said then or later: RFC 3339, or a day (2026-11-05), which begins in UTC.
    #[arg(long, value_parser = moment)]
    start: Option<OffsetDateTime>,
    /// Said before then.
    #[arg(long, value_parser = moment)]
    end: Option<OffsetDateTime>,
    /// In this chat room, group or conversation; empty: between two.
    #[arg(long)]
    chatroom: Option<String>,
    /// From this person, or passed on by this chat room.
    #[arg(long)]
    from_username: Option<String>,
    /// Said in a chat room by this person.
    #[arg(long)]
    chatroom_sender: Option<String>,
    /// Of this type.
    #[arg(long, allow_negative_numbers = true)]
    msg_type: Option<i64>,
    /// Of this feed: `wechat`, `lark`, `chat`, or the name of another source.
    #[arg(long)]
    source: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  skylark lake count --by chatroom --start 2026-11-01 --end 2026-12-01

JSON: an array of {value, messages}.")]
pub(crate) struct CountArgs {
    /// The column: `chatroom`, `msg_type`, `source`, ..
    #[arg(long)]
    by: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// The most values, the most frequent first.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Its path in the table, as `validate` prints it.
    file: String,
    /// The table.
    #[arg(long, value_parser = table, default_value = "messages")]
    table: Kind,
    /// How the rows are written.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Write them into this file.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: long texts are cut.
    Table,
    /// A list of objects, one a line.
    Json,
    /// RFC 4180, with a header line.
    Csv,
}

/// Names of columns.
#[derive(Debug, Clone, Default)]
struct Columns(Vec<String>);

fn columns(list: &str) -> Result<Columns, String> {
    let chosen = lake_rows::chosen(Kind::Messages, list).map(Columns);
    chosen.ok_or_else(|| "they must be columns of messages (docs/lake-tables.md), each once".to_owned())
}

fn table(name: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
    found.ok_or_else(|| "it must be `messages` or `contacts`".to_owned())
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        let FilterArgs { start, end, chatroom, from_username, chatroom_sender, msg_type, source } = args;
        Self { start, end, chatroom, from_username, chatroom_sender, msg_type, source }
    }
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    instant(text).ok_or_else(|| "it must be a time (RFC 3339) or a day (2026-11-05)".to_owned())
}

pub(crate) async fn run(reader: &Reader, args: QueryArgs) -> Result<(), CliFault> {
    let mut writer = Writer::new(args.format, args.output)?;
    let Columns(columns) = match args.format {
        Format::Table => args.columns.unwrap_or_else(|| Columns(TABLE_COLUMNS.map(str::to_owned).to_vec())),
        Format::Json | Format::Csv => args.columns.unwrap_or_default(),
    };
    let mut query = Query { filter: args.filter.into(), columns, limit: 0, after: None };
    let mut left = if args.all { u64::MAX } else { args.limit };
    loop {
        query.limit = left.min(MAX_PAGE_ROWS as u64) as usize;
        let found = reader.messages(&query).await?;
        left -= found.rows.num_rows() as u64;
        // A reader of the output that has seen enough is no reason to fail.
        let listens = writer.page(&Rows::of(&found.rows)?)?;
        let more = found.next.is_some();
        query.after = found.next;
        if !(more && listens && left > 0) {
            writer.end()?;
            if more && listens {
                // With stderr closed there is nobody left to tell.
                let _ = writeln!(io::stderr(), "there are more: --limit says how many, --all prints all of them");
            }
            return Ok(());
        }
    }
}

pub(crate) async fn count(reader: &Reader, args: CountArgs) -> Result<(), CliFault> {
    let counted = reader.count_by(&args.filter.into(), &args.by).await?;
    let shown = counted.iter().take(args.limit);
    if args.json {
        let values: Vec<_> = shown.map(|(value, messages)| json!({ "value": value, "messages": messages })).collect();
        return say_json(&values);
    }
    for (value, messages) in shown {
        say(format!("{messages:>10}  {}", cell(Some(value.as_deref().unwrap_or("(none)").into()))));
    }
    let (all, rest) = (counted.len(), counted.len().saturating_sub(args.limit));
    say(format!(
        "{all} values of `{}`{}",
        args.by,
        if rest == 0 { String::new() } else { format!(", {rest} not shown") }
    ));
    Ok(())
}

/// The rows of one file as they are, in its order.
pub(crate) async fn dump(lake: &Lake, args: DumpArgs) -> Result<(), CliFault> {
    let name = args.file;
    let unreadable = |cause: ParquetError| CliFault::Failed(format!("`{name}` cannot be read: {cause}"));
    let bytes = lake.read_object(&lake.file_key(args.table, &name).await?).await?;
    let none = || CliFault::Argument(format!("the table `{}` has no file `{name}`", args.table));
    let bytes = bytes.ok_or_else(none)?;
    let rows = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|file| file.build()).map_err(unreadable)?;
    let mut writer = Writer::new(args.format, args.output)?;
    for rows in rows {
        let rows = rows.map_err(|cause| unreadable(cause.into()))?;
        if !writer.page(&Rows::of(&rows)?)? {
            break;
        }
    }
    writer.end()
}

pub(crate) async fn message(reader: &Reader, msg_id: &str) -> Result<(), CliFault> {
    let found = reader.message(msg_id).await?;
    let found = found.ok_or_else(|| CliFault::Argument(format!("there is no message `{msg_id}`")))?;
    say_json(&Rows::of(&found)?.iter().next())
}

pub(crate) async fn contact(reader: &Reader, username: &str) -> Result<(), CliFault> {
    let found = reader.contact(username).await?;
    let found = found.ok_or_else(|| CliFault::Argument(format!("there is no contact `{username}`")))?;
    say_json(&Rows::of(&found)?.iter().next())
}

/// Pages on their way out.
struct Writer {
    format: Format,
    out: Box<dyn Write>,
    name: String,
    /// Of a table, as wide as the first page needs.
    widths: Vec<usize>,
    rows: u64,
    begun: bool,
}

impl Writer {
    fn new(format: Format, file: Option<PathBuf>) -> Result<Self, CliFault> {
        let (out, name): (Box<dyn Write>, _) = match file {
            None => (Box::new(io::stdout()), "the output".to_owned()),
            Some(path) => {
                let name = format!("`{}`", path.display());
                let file = File::create(&path)
                    .map_err(|cause| CliFault::storage(format!("{name} cannot be written"), cause))?;
                (Box::new(BufWriter::new(file)), name)
            }
        };
        Ok(Self { format, out, name, widths: Vec::new(), rows: 0, begun: false })
    }

    /// Writes a page, and tells whether anybody reads on.
    fn page(&mut self, rows: &Rows<'_>) -> Result<bool, CliFault> {
        let text = match self.format {
            Format::Table => self.table(rows),
            Format::Json => self.json(rows)?,
            Format::Csv if self.begun => rows.csv(),
            Format::Csv => rows.csv_header() + &rows.csv(),
        };
        self.begun = true;
        self.write(&text)
    }

    fn end(&mut self) -> Result<(), CliFault> {
        let text = match (self.format, self.rows) {
            (Format::Json, 0) => "[]\n",
            (Format::Json, _) => "\n]\n",
            _ => "",
        };
        self.write(text).map(|_| ())
    }

    fn write(&mut self, text: &str) -> Result<bool, CliFault> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(cause) => Err(CliFault::storage(format!("{} cannot be written", self.name), cause)),
        }
    }

    fn json(&mut self, rows: &Rows<'_>) -> Result<String, CliFault> {
        let mut text = String::new();
        for row in rows.iter() {
            text += if self.rows == 0 { "[\n" } else { ",\n" };
            let row =
                serde_json::to_string(&row).map_err(|cause| CliFault::storage("a row cannot be written", cause))?;
            text += &row;
            self.rows += 1;
        }
        Ok(text)
    }

    fn table(&mut self, rows: &Rows<'_>) -> String {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.texts().map(cell).collect()).collect();
        let mut lines = Vec::new();
        if !self.begun {
            let names: Vec<String> = rows.names().map(str::to_uppercase).collect();
            let width = |at: usize| {
                let column = cells.iter().chain([&names]).filter_map(|line| line.get(at));
                column.map(|cell| cell.chars().count()).max().unwrap_or_default()
            };
            self.widths = (0..names.len()).map(width).collect();
            lines.push(names);
        }
        lines.extend(cells);
        let line = |cells: &Vec<String>| {
            let cells = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        lines.iter().map(line).collect()
    }
}

/// A text on one line, cut where a screen ends.
fn cell(text: Option<Cow<'_, str>>) -> String {
    let text = text.unwrap_or_default();
    let mut line: String = text.chars().take(CELL).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CELL).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_and_tells_when_it_was_cut() {
        let of = |text: &str| cell(Some(text.into()));
        assert_eq!((of("a\r\n\tb"), of(""), cell(None)), ("a   b".to_owned(), String::new(), String::new()));
        assert_eq!(of(&"字".repeat(CELL)), "字".repeat(CELL));
        assert_eq!(of(&"字".repeat(CELL + 1)), format!("{}…", "字".repeat(CELL - 1)));
    }
}
