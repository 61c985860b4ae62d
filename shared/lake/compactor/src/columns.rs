//! Columns of all inputs -> encoded chunks of the output's row groups, a few columns at a time.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, Field, Schema};
use arrow_select::concat::concat;
use arrow_select::take::take;
use domain::lake::Kind;
use lake_rows::{Keep, Rule};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Type;
use parquet::data_type::ByteArray;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterPropertiesPtr};
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, TypePtr};
use twox_hash::XxHash64;

use crate::inputs::{Inputs, Piece, held};
use crate::order::Order;
use crate::spill::{Spill, Stores};
use crate::{CompactError, Options};

/// The most bytes of decoded values in one row group: a reader holds a row group's column at once.
const ROW_GROUP_BYTES: u64 = 512 << 20;

/// Everything that the files are made of.
pub(crate) struct Encoded {
    pub(crate) schema: TypePtr,
    pub(crate) properties: WriterPropertiesPtr,
    /// The columns of each row group.
    pub(crate) row_groups: Vec<Vec<ArrowColumnChunk>>,
    /// Rows that are left out although they say something else than the row that is kept; rising.
    pub(crate) conflicts: Vec<u32>,
}

/// Encodes all columns in `order`.
pub(crate) fn encode(table: Kind, inputs: &Inputs, order: &Order, options: &Options) -> Result<Encoded, CompactError> {
    let rule = Rule::of(table);
    let schema = ArrowSchemaConverter::new().convert(&inputs.schema)?;
    let rows = row_group_rows(inputs, options);
    let properties = lake_rows::properties(table, options.level, rows)?;
    // Bounds of long text are of no use to anybody; only its nulls are counted, below.
    let long = |column: &ColumnDescPtr| {
        column.physical_type() == Type::BYTE_ARRAY
            && properties.statistics_enabled(column.path()) == EnabledStatistics::Chunk
    };
    let long: Vec<ColumnDescPtr> = schema.columns().iter().filter(|column| long(column)).cloned().collect();
    let properties = long.iter().fold(properties.into_builder(), |properties, column| {
        properties.set_column_statistics_enabled(column.path().clone(), EnabledStatistics::None)
    });
    let properties = Arc::new(properties.set_sorting_columns(Some(sorted_by(inputs, &rule))).build());

    // The pages' part of the memory is for what comes last, too: it is filled by the first columns, and the rest goes to the file.
    let decoded_bytes = options.memory_bytes as u64 / 4 * 3;
    let spill = Spill::new(&options.folder, options.memory_bytes / 4)?;
    let schema = schema.root_schema_ptr();
    let file = SerializedFileWriter::new(std::io::sink(), Arc::clone(&schema), Arc::clone(&properties))?;
    let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(&inputs.schema))
        .with_page_store_factory(Arc::new(Stores(spill)));
    let groups = order.rows.len().div_ceil(rows);
    let writers: Result<Vec<_>, _> = (0..groups).map(|index| factory.create_column_writers(index)).collect();
    let mut writers: Vec<_> = writers?.into_iter().map(Vec::into_iter).collect();
    let mut row_groups: Vec<Vec<ArrowColumnChunk>> =
        writers.iter().map(|columns| Vec::with_capacity(columns.len())).collect();

    let mut content = Content::of(order, rule.keep);
    let columns = if groups == 0 { Vec::new() } else { together(inputs, decoded_bytes) };
    for columns in columns {
        let open = writers.iter_mut().zip(0..).map(|(writers, row_group)| {
            let left = rows.min(order.rows.len() - row_group * rows);
            writers
                .by_ref()
                .take(columns.len())
                .map(|writer| Chunk::Open { writer: Box::new(writer), nulls: 0, left })
                .collect()
        });
        let mut chunks: Vec<Vec<Chunk>> = open.collect();
        let mut passes = Passes::of(inputs, order, &columns, decoded_bytes);
        while let Some(places) = passes.rest.pop_front() {
            let seen = |piece, arrays: &[ArrayRef]| content.see(&inputs.schema, piece, &columns, arrays);
            match decode(inputs, order, &columns, &places, passes.limit, seen)? {
                Some(decoded) => write(&inputs.schema, decoded, &columns, places, rows, &mut chunks, &long)?,
                None => passes.by_lengths(inputs, order, &columns, places.start..order.rows.len())?,
            }
        }
        content.seen = 0;
        for (row_group, chunks) in row_groups.iter_mut().zip(chunks) {
            for chunk in chunks {
                row_group.extend(chunk.closed(&long)?);
            }
        }
    }
    Ok(Encoded { schema, properties, row_groups, conflicts: content.conflicts(order) })
}

/// A chunk on its way.
enum Chunk {
    /// So many rows are `left` to be written. A writer holds more than a megabyte to compress with.
    Open {
        writer: Box<ArrowColumnWriter>,
        nulls: u64,
        left: usize,
    },
    Closed(Box<ArrowColumnChunk>),
    Broken,
}

impl Chunk {
    fn write(&mut self, field: &Field, values: &ArrayRef, long: &[ColumnDescPtr]) -> Result<(), CompactError> {
        let Self::Open { writer, nulls, left } = self else { return Ok(()) };
        for leaf in compute_leaves(field, values)? {
            writer.write(&leaf)?;
        }
        *nulls += values.null_count() as u64;
        *left -= values.len().min(*left);
        if *left == 0 {
            let closed = std::mem::replace(self, Self::Broken).closed(long)?;
            *self = closed.map_or(Self::Broken, |chunk| Self::Closed(Box::new(chunk)));
        }
        Ok(())
    }

    fn closed(self, long: &[ColumnDescPtr]) -> Result<Option<ArrowColumnChunk>, CompactError> {
        let (writer, nulls) = match self {
            Self::Open { writer, nulls, .. } => (writer, nulls),
            Self::Closed(chunk) => return Ok(Some(*chunk)),
            Self::Broken => return Ok(None),
        };
        let mut chunk = writer.close()?;
        let metadata = &chunk.close().metadata;
        if long.iter().any(|column| column.path() == metadata.column_path()) {
            let nulls = Statistics::new::<ByteArray>(None, None, None, Some(nulls), false);
            chunk.close_mut().metadata = metadata.clone().into_builder().set_statistics(nulls).build()?;
        }
        Ok(Some(chunk))
    }
}

/// What readers are told of the order.
fn sorted_by(inputs: &Inputs, rule: &Rule) -> Vec<SortingColumn> {
    let columns = rule.order().filter_map(|name| i32::try_from(inputs.column(name)?).ok());
    columns.map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: true }).collect()
}

/// As many rows as asked for, or fewer if they are large.
fn row_group_rows(inputs: &Inputs, options: &Options) -> usize {
    let bytes: u64 = (0..inputs.schema.fields().len()).map(|column| inputs.decoded_bytes(column)).sum();
    let row = bytes / u64::from(inputs.row_count()).max(1);
    let fit = usize::try_from(ROW_GROUP_BYTES / row.max(1)).unwrap_or(usize::MAX);
    options.row_group_rows.min(fit).max(1)
}

/// Columns, in order, that fit into the memory together; one that does not fit is alone.
fn together(inputs: &Inputs, bytes: u64) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut taken) = (Vec::new(), 0, 0);
    let columns = inputs.schema.fields().len();
    for column in 0..columns {
        let size = inputs.decoded_bytes(column);
        if column > start && taken + size > bytes {
            groups.push(start..column);
            (start, taken) = (column, 0);
        }
        taken += size;
    }
    groups.push(start..columns);
    groups
}

/// The parts of the output, as places in its order, whose values fit into the memory at once: usually a single one.
struct Passes {
    rest: VecDeque<Range<usize>>,
    bytes: u64,
    /// What a pass may take; none if it was made to fit.
    limit: Option<u64>,
}

impl Passes {
    /// Divides by what the footers promise, which is an average of each row group.
    fn of(inputs: &Inputs, order: &Order, columns: &Range<usize>, bytes: u64) -> Self {
        let all = 0..order.rows.len();
        let size: u64 = columns.clone().map(|column| inputs.decoded_bytes(column)).sum();
        if size <= bytes || columns.len() > 1 {
            return Self { rest: VecDeque::from([all]), bytes, limit: None };
        }
        let lengths = inputs.promised_lengths(columns.start);
        Self { rest: divided(order, &lengths, all, bytes), bytes, limit: Some(bytes + bytes / 4) }
    }

    /// Divides `places` by the lengths of their values: some row group has values of very different lengths.
    fn by_lengths(
        &mut self,
        inputs: &Inputs,
        order: &Order,
        columns: &Range<usize>,
        places: Range<usize>,
    ) -> Result<(), CompactError> {
        self.rest = divided(order, &lengths(inputs, columns.start)?, places, self.bytes);
        self.limit = None;
        Ok(())
    }
}

/// Divides `places` into as few parts as fit into `bytes`, about equally large.
fn divided(order: &Order, lengths: &[u32], places: Range<usize>, bytes: u64) -> VecDeque<Range<usize>> {
    let rows = order.rows.get(places.clone()).unwrap_or_default();
    let taken_by = |row: &u32| lengths.get(*row as usize).map_or(0, |length| u64::from(*length)) + 16;
    let total: u64 = rows.iter().map(taken_by).sum();
    let parts = total.div_ceil(bytes.max(1)).max(1);
    let share = (total.div_ceil(parts) / 16 * 17).min(bytes);
    let (mut divided, mut start, mut taken) = (VecDeque::new(), places.start, 0);
    for (place, row) in places.clone().zip(rows) {
        let bytes = taken_by(row);
        if place > start && taken + bytes > share {
            divided.push_back(start..place);
            (start, taken) = (place, 0);
        }
        taken += bytes;
    }
    divided.push_back(start..places.end);
    divided
}

/// The length of a column's value in each row.
fn lengths(inputs: &Inputs, column: usize) -> Result<Vec<u32>, CompactError> {
    let mut lengths = Vec::with_capacity(inputs.row_count() as usize);
    for piece in &inputs.pieces {
        for array in inputs.read(*piece, &[column])? {
            match array.data_type() {
                DataType::BinaryView => lengths.extend(array.as_binary_view().views().iter().map(|view| *view as u32)),
                _ => lengths.resize(lengths.len() + array.len(), 16),
            }
        }
    }
    Ok(lengths)
}

/// Some columns of the rows that a pass puts out.
struct Decoded {
    arrays: Vec<ArrayRef>,
    /// Where in the arrays the row of each place is.
    indices: ScalarBuffer<u32>,
}

/// Decodes `columns` of all inputs and keeps what goes to `places`; `None` if that takes more than `limit`.
fn decode(
    inputs: &Inputs,
    order: &Order,
    columns: &Range<usize>,
    places: &Range<usize>,
    limit: Option<u64>,
    mut see: impl FnMut(Piece, &[ArrayRef]),
) -> Result<Option<Decoded>, CompactError> {
    let wanted = order.rows.get(places.clone()).unwrap_or_default();
    let columns: Vec<usize> = columns.clone().collect();
    let mut parts: Vec<Vec<ArrayRef>> = columns.iter().map(|_| Vec::with_capacity(inputs.pieces.len())).collect();
    let mut keep = |arrays: Vec<ArrayRef>| parts.iter_mut().zip(arrays).for_each(|(parts, array)| parts.push(array));

    let indices = if wanted.len() == order.rows.len() {
        for piece in &inputs.pieces {
            let arrays = inputs.read(*piece, &columns)?;
            see(*piece, &arrays);
            keep(arrays);
        }
        order.rows.clone()
    } else {
        // The wanted rows in the order of the inputs, and for each its place in the pass.
        let mut rising: Vec<(u32, u32)> = wanted.iter().copied().zip(0..).collect();
        rising.sort_unstable();
        let (mut rest, mut taken) = (rising.as_slice(), 0);
        for piece in &inputs.pieces {
            let arrays = inputs.read(*piece, &columns)?;
            see(*piece, &arrays);
            let (here, later) = rest.split_at(rest.partition_point(|(row, _)| *row < piece.range().end));
            rest = later;
            let here = UInt32Array::from_iter_values(here.iter().map(|(row, _)| row - piece.first));
            let arrays = arrays.iter().map(|array| Ok(alone(take(array, &here, None)?)));
            let arrays = arrays.collect::<Result<Vec<_>, CompactError>>()?;
            taken += arrays.iter().map(|array| array.get_buffer_memory_size() as u64).sum::<u64>();
            if limit.is_some_and(|limit| taken > limit) {
                return Ok(None);
            }
            keep(arrays);
        }
        let mut indices = vec![0; wanted.len()];
        for (index, (_, place)) in (0..).zip(rising) {
            if let Some(slot) = indices.get_mut(place as usize) {
                *slot = index;
            }
        }
        indices
    };
    let arrays = parts.into_iter().map(|parts| {
        let parts: Vec<&dyn Array> = parts.iter().map(|part| part.as_ref()).collect();
        Ok(concat(&parts)?)
    });
    Ok(Some(Decoded { arrays: arrays.collect::<Result<_, CompactError>>()?, indices: indices.into() }))
}

/// The same values without the rest of the pages that they came in.
fn alone(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array,
    }
}

/// Puts what was decoded for `places` in order and into the row groups' chunks.
fn write(
    schema: &Schema,
    decoded: Decoded,
    columns: &Range<usize>,
    places: Range<usize>,
    rows: usize,
    chunks: &mut [Vec<Chunk>],
    long: &[ColumnDescPtr],
) -> Result<(), CompactError> {
    for (at, (column, array)) in columns.clone().zip(decoded.arrays).enumerate() {
        let field = Field::new("", held(schema.field(column).data_type()), true);
        let mut place = places.start;
        while place < places.end {
            let row_group = place / rows;
            let end = places.end.min((row_group + 1) * rows);
            let indices = UInt32Array::new(decoded.indices.slice(place - places.start, end - place), None);
            if let Some(chunk) = chunks.get_mut(row_group).and_then(|chunks| chunks.get_mut(at)) {
                chunk.write(&field, &take(&array, &indices, None)?, long)?;
            }
            place = end;
        }
    }
    Ok(())
}

/// What the rows whose id is not theirs alone say, as hashes of 128 bits.
struct Content {
    /// The rows, rising, each with its hash so far.
    rows: Vec<(u32, [u64; 2])>,
    /// The rows before this one have been seen in the columns that are at hand: further passes over them say nothing new.
    seen: u32,
}

impl Content {
    fn of(order: &Order, keep: Keep) -> Self {
        let twins = match keep {
            Keep::Earliest => order.twins.as_slice(),
            Keep::Latest => &[],
        };
        let mut rows: Vec<u32> = twins.iter().flat_map(|twin| [twin.lost, twin.kept]).collect();
        rows.sort_unstable();
        rows.dedup();
        Self { rows: rows.into_iter().map(|row| (row, [0; 2])).collect(), seen: 0 }
    }

    fn see(&mut self, schema: &Schema, piece: Piece, columns: &Range<usize>, arrays: &[ArrayRef]) {
        let range = piece.range();
        if range.start < self.seen {
            return;
        }
        self.seen = range.end;
        let at = |row: u32| self.rows.partition_point(|(seen, _)| *seen < row);
        let (start, end) = (at(range.start), at(range.end));
        let Some(rows) = self.rows.get_mut(start..end).filter(|rows| !rows.is_empty()) else {
            return;
        };
        for (column, array) in columns.clone().zip(arrays) {
            if lake_rows::is_content(schema.field(column).name()) {
                mix(column, array, rows.iter_mut().map(|(row, hash)| ((*row - range.start) as usize, hash)));
            }
        }
    }

    /// Of the rows that are left out, those that say something that no kept row and no other conflict of their id says.
    fn conflicts(&self, order: &Order) -> Vec<u32> {
        let hash = |row: u32| {
            let at = self.rows.binary_search_by_key(&row, |(seen, _)| *seen).ok()?;
            self.rows.get(at).map(|(_, hash)| *hash)
        };
        let mut said: HashMap<(u32, [u64; 2]), ()> = HashMap::new();
        let lost = order.twins.iter().filter_map(|twin| Some((twin, hash(twin.lost)?, hash(twin.kept)?)));
        let differing = lost.filter(|(twin, lost, kept)| lost != kept && said.insert((twin.kept, *lost), ()).is_none());
        differing.map(|(twin, ..)| twin.lost).collect()
    }
}

/// Mixes a column's values at `rows` into their hashes. Null is no value, and neither is a column that is not there.
fn mix<'a>(column: usize, array: &ArrayRef, rows: impl Iterator<Item = (usize, &'a mut [u64; 2])>) {
    let mix = |hash: &mut [u64; 2], value: &[u8]| {
        let seed = (column as u64) << 1;
        *hash = [
            hash[0].rotate_left(5).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ XxHash64::oneshot(seed, value),
            hash[1].rotate_left(7).wrapping_mul(0xC2B2_AE3D_27D4_EB4F) ^ XxHash64::oneshot(seed + 1, value),
        ];
    };
    let rows = rows.filter(|(row, _)| array.is_valid(*row));
    match array.data_type() {
        DataType::BinaryView => {
            let values = array.as_binary_view();
            rows.for_each(|(row, hash)| mix(hash, values.value(row)));
        }
        DataType::Boolean => {
            let values = array.as_boolean();
            rows.for_each(|(row, hash)| mix(hash, &[u8::from(values.value(row))]));
        }
        fixed => {
            let (data, width) = (array.to_data(), fixed.primitive_width().unwrap_or(0));
            let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
            rows.for_each(|(row, hash)| {
                let start = (data.offset() + row) * width;
                mix(hash, bytes.get(start..start + width).unwrap_or_default());
            });
        }
    }
}
