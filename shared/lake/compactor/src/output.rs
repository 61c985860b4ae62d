//! Encoded chunks -> files.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;

use domain::lake::Kind;
use lake_rows::Stats;
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::file::writer::SerializedFileWriter;

use crate::columns::Encoded;
use crate::{CompactError, Options};

/// One file that a compaction wrote.
#[derive(Debug)]
pub struct Output {
    pub path: PathBuf,
    pub bytes: u64,
    pub rows: u64,
    pub stats: Stats,
}

/// What a file has beside its chunks: magic, Bloom filters, page index and footer are far smaller.
const OVERHEAD_BYTES: u64 = 4 << 20;

/// Splices row groups into as few files as the limit allows, in order.
pub(crate) fn write(table: Kind, encoded: Encoded, options: &Options) -> Result<Vec<Output>, CompactError> {
    let Encoded { schema, properties, row_groups, .. } = encoded;
    let limit = options.max_output_bytes.saturating_sub(OVERHEAD_BYTES);
    let (mut outputs, mut rest) = (Vec::new(), row_groups.into_iter().peekable());
    while let Some(first) = rest.next() {
        let path = options.folder.join(format!("{:05}.parquet", outputs.len()));
        let failed = |source: io::Error| CompactError::Write { path: path.clone(), source };
        let file = File::create_new(&path).map_err(failed)?;
        let mut writer = SerializedFileWriter::new(BufWriter::new(file), Arc::clone(&schema), Arc::clone(&properties))?;
        let (mut bytes, mut rows, mut next) = (0, 0, Some(first));
        while let Some(chunks) = next {
            bytes += size(&chunks);
            rows += row_count(&chunks);
            let mut row_group = writer.next_row_group()?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut row_group)?;
            }
            row_group.close()?;
            next = rest
                .next_if(|chunks| bytes + size(chunks) <= limit && rows + row_count(chunks) <= options.max_output_rows);
        }
        let stats = Stats::of(table, &writer.finish()?);
        let bytes = std::fs::metadata(&path).map_err(failed)?.len();
        outputs.push(Output { path, bytes, rows: stats.num_records, stats });
    }
    Ok(outputs)
}

fn size(chunks: &[ArrowColumnChunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.close().bytes_written).sum()
}

fn row_count(chunks: &[ArrowColumnChunk]) -> u64 {
    chunks.first().map_or(0, |chunk| chunk.close().rows_written)
}
