//! Rows as files: what is written is read, at every level, and the log is told the truth of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use domain::lake::source::Mapping;
use lake_rows::{Bound, Converter, Kind, Level, Line, Options, ROW_GROUP_ROWS, Written, schema, write_parquet};
use lake_sample::Plan;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::file::metadata::ParquetMetaData;
use time::macros::datetime;

/// Rows of one day, as the feed has them.
fn rows(table: Kind, events: u64) -> RecordBatch {
    let midnight = datetime!(2026-11-24 00:00 UTC).unix_timestamp();
    let plan = Plan { seed: 3, events, from: midnight, spread_secs: 86_400, mixed: true };
    let mut converter = Converter::new(Options::default());
    for (at, event) in (1..).zip(plan.events()) {
        converter.push(&Line {
            bytes: &event.body,
            source: "wechat",
            mapping: &Mapping::Wechat,
            mask: false,
            received_at: datetime!(2026-11-25 12:00:00.123456 UTC) + time::Duration::microseconds(at),
            raw_object: "raw/v1/dt=2026-11-25/hh=12/ab.jsonl.zst",
            raw_line: u64::try_from(at).unwrap(),
        });
    }
    let converted = converter.finish().unwrap();
    converted.batches.into_iter().find(|batch| batch.table == table).unwrap().rows
}

fn read(written: &Written) -> (RecordBatch, ParquetMetaData) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(written.bytes.clone()).unwrap();
    let metadata = builder.metadata().as_ref().clone();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    (arrow_select::concat::concat_batches(&schema, &batches).unwrap(), metadata)
}

fn written(table: Kind, rows: &RecordBatch, level: Level) -> (Written, ParquetMetaData) {
    let written = write_parquet(table, rows, level).unwrap();
    let (back, metadata) = read(&written);
    assert_eq!(*back.schema(), *schema(table), "a reader finds the table's types without Arrow's own metadata");
    assert_eq!(back, *rows);
    assert_eq!(written.rows, u64::try_from(rows.num_rows()).unwrap());
    (written, metadata)
}

/// The first row group's column chunks by name.
fn chunks(metadata: &ParquetMetaData) -> BTreeMap<String, &parquet::file::metadata::ColumnChunkMetaData> {
    metadata.row_group(0).columns().iter().map(|chunk| (chunk.column_path().string(), chunk)).collect()
}

#[test]
fn every_level_says_the_same_and_later_ones_can_be_searched() {
    for table in Kind::ALL {
        let rows = rows(table, 20_000);
        let mut sizes = Vec::new();
        for level in Level::ALL {
            let (written, metadata) = written(table, &rows, level);
            let chunks = chunks(&metadata);
            let later = level > Level::L0;
            let key = &chunks[lake_rows::key(table)];
            assert_eq!(key.bloom_filter_offset().is_some(), later, "{level:?}");
            assert_eq!(key.column_index_offset().is_some(), later, "{level:?}");
            assert_eq!(chunks["received_at"].offset_index_offset().is_some(), later, "{level:?}");
            assert!(chunks.values().all(|chunk| matches!(chunk.compression(), Compression::ZSTD(_))));
            sizes.push(written.bytes.len());
        }
        assert!(sizes[3] < sizes[1], "the archive is not smaller: {sizes:?}");
    }
}

#[test]
fn what_repeats_has_a_dictionary_and_what_does_not_has_none() {
    let (_, metadata) = written(Kind::Messages, &rows(Kind::Messages, 5_000), Level::L2);
    let dictionaries: Vec<String> = chunks(&metadata)
        .into_iter()
        .filter(|(_, chunk)| chunk.dictionary_page_offset().is_some())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        dictionaries,
        [
            "chatroom",
            "chatroom_sender",
            "from_username",
            "guid",
            "is_chatroom_msg",
            "msg_type",
            "notify_type",
            "raw_object",
            "source",
            "to_username"
        ]
    );
    let growing = |name: &str| chunks(&metadata)[name].encodings().any(|it| it == Encoding::DELTA_BINARY_PACKED);
    assert!(growing("create_time") && growing("received_at") && growing("raw_line"));
}

#[test]
fn columns_are_of_types_that_every_reader_knows() {
    let (_, metadata) = written(Kind::Contacts, &rows(Kind::Contacts, 5_000), Level::L0);
    let schema = metadata.file_metadata().schema_descr();
    for column in schema.columns() {
        assert!(matches!(column.physical_type(), Type::BYTE_ARRAY | Type::INT64), "{}", column.name());
        assert!(column.self_type().is_optional(), "{}", column.name());
    }
}

#[test]
fn the_log_is_told_counts_and_bounds_that_hold() {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::Int64Type;

    for table in Kind::ALL {
        let rows = rows(table, 3_000);
        let (written, _) = written(table, &rows, Level::L0);
        let stats = &written.stats;
        assert_eq!(stats.num_records, written.rows);
        for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
            let name = field.name();
            assert_eq!(stats.null_count[name], column.null_count() as u64, "{name}");
            let bounds = stats.min_values.get(name).zip(stats.max_values.get(name));
            let long =
                ["content", "msg_desc", "msg_source", "extras", "sns_user_info", "custom_info", "new_chatroom_data"];
            let expected = !long.contains(&name.as_str()) && column.null_count() < column.len();
            assert_eq!(bounds.is_some(), expected, "{name}");
            let Some((min, max)) = bounds else { continue };
            if let Some(texts) = column.as_string_opt::<i32>() {
                let (Bound::Text(min), Bound::Text(max)) = (min, max) else { panic!("{name}") };
                assert!(texts.iter().flatten().all(|text| min.as_str() <= text && text <= max.as_str()), "{name}");
                assert!(min.len() <= 32 && max.len() <= 32, "{name}");
            } else if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
                let (Bound::Integer(min), Bound::Integer(max)) = (min, max) else { panic!("{name}") };
                assert_eq!(Some(*min), numbers.iter().flatten().min(), "{name}");
                assert_eq!(Some(*max), numbers.iter().flatten().max(), "{name}");
            }
        }
        if table == Kind::Messages {
            // The first and the last microsecond, told in milliseconds around them.
            let received = ["12:00:00.123", "12:00:00.127"].map(|at| Bound::Text(format!("2026-11-25T{at}Z")));
            assert_eq!([&stats.min_values["received_at"], &stats.max_values["received_at"]], received.each_ref());
        }
        let json: serde_json::Value = serde_json::from_str(&stats.to_json().unwrap()).unwrap();
        assert_eq!(json["numRecords"], written.rows);
    }
}

#[test]
fn a_file_of_many_rows_has_row_groups_of_the_right_size() {
    let one = rows(Kind::Messages, 2_000);
    let mut writer = lake_rows::Writer::new(Kind::Messages, Level::L0, ROW_GROUP_ROWS, Vec::new()).unwrap();
    let batches = ROW_GROUP_ROWS / one.num_rows() + 2;
    for _ in 0..batches {
        writer.write(&one).unwrap();
    }
    let (bytes, stats) = writer.finish().unwrap();
    let total = u64::try_from(batches * one.num_rows()).unwrap();
    assert_eq!(stats.num_records, total);
    let (_, metadata) = read(&Written { bytes: bytes.into(), rows: total, stats });
    let sizes: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(sizes[0], i64::try_from(ROW_GROUP_ROWS).unwrap());
    assert_eq!(sizes.len(), 2);
}

#[test]
fn a_day_without_rows_of_a_column_has_no_bounds_of_it() {
    let rows = rows(Kind::Messages, 100).slice(0, 0);
    let (written, _) = written(Kind::Messages, &rows, Level::L0);
    assert!(written.stats.min_values.is_empty() && written.stats.num_records == 0);
}

#[test]
fn a_file_s_level_is_in_its_name() {
    for level in Level::ALL {
        assert_eq!(Level::of(&format!("year=2026/month=1/day=1/{}-ab.parquet", level.prefix())), Some(level));
    }
    assert_eq!(Level::of("year=2026/month=1/day=1/part-0.parquet"), None);
}
