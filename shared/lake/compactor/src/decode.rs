//! Column chunks -> arrays, for what this lake's files are made of: ZSTD, and plain, dictionary and delta encodings of text and of 64 bits.
//!
//! A small file costs a general reader more in preparations for each of its chunks than in values: of a thousand files, it prepares eighteen
//! thousand times to compress and to decompress. Here one context decompresses all. Text is not validated again: what is no text stays what it
//! was. Anything else is left to the general reader.

use std::sync::Arc;

use arrow_array::builder::make_view;
use arrow_array::{ArrayRef, BinaryViewArray, Int64Array, TimestampMicrosecondArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageReader as _};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::get_frame_content_size;

use crate::inputs::Window;

/// Decompresses and decodes.
pub(crate) struct Decoder {
    zstd: Decompressor<'static>,
}

/// The values of a chunk so far.
enum Values {
    Bytes { views: Vec<u128>, buffers: Vec<Buffer>, dictionary: Vec<u128> },
    Longs { values: Vec<i64>, dictionary: Vec<i64> },
}

impl Decoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()? })
    }

    /// The `rows` values of a chunk that `window` has; `None` if it is written in a way that no file of ours is.
    pub(crate) fn decode(
        &mut self,
        window: &Window,
        chunk: &ColumnChunkMetaData,
        rows: usize,
        data_type: &DataType,
    ) -> Result<Option<ArrayRef>> {
        let column = chunk.column_descr();
        let mut values = match (chunk.column_type(), data_type) {
            (Type::BYTE_ARRAY, DataType::BinaryView) => {
                Values::Bytes { views: Vec::with_capacity(rows), buffers: Vec::new(), dictionary: Vec::new() }
            }
            (Type::INT64, DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                Values::Longs { values: Vec::with_capacity(rows), dictionary: Vec::new() }
            }
            _ => return Ok(None),
        };
        let compressed = match chunk.compression() {
            Compression::ZSTD(_) => true,
            Compression::UNCOMPRESSED => false,
            _ => return Ok(None),
        };
        if column.max_rep_level() > 0 || column.max_def_level() > 1 {
            return Ok(None);
        }

        // The reader of pages is not told that they are compressed: it hands them over as they are.
        let bare = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let mut pages = SerializedPageReader::new(Arc::new(window.clone()), &bare, rows, None)?;
        let mut valid: Option<Vec<bool>> = None;
        while let Some(page) = pages.get_next_page()? {
            match page {
                Page::DictionaryPage {
                    buf,
                    num_values,
                    encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY,
                    ..
                } => {
                    let Some(page) = self.page(buf, compressed)? else { return Ok(None) };
                    values.dictionary(page, num_values as usize).ok_or_else(broken)?;
                }
                Page::DataPage { buf, num_values, encoding, def_level_encoding: Encoding::RLE, .. } => {
                    let Some(page) = self.page(buf, compressed)? else { return Ok(None) };
                    let (start, levels) = match column.max_def_level() {
                        0 => (0, None),
                        _ => levels(&page, num_values as usize).ok_or_else(broken)?,
                    };
                    let before = values.len();
                    let present =
                        levels.as_ref().map_or(num_values as usize, |levels| levels.iter().filter(|it| **it).count());
                    if !values.knows(encoding) {
                        return Ok(None);
                    }
                    values.page(page, start, present, encoding).ok_or_else(broken)?;
                    match levels {
                        Some(levels) => {
                            values.spread(before, &levels);
                            valid.get_or_insert_with(|| vec![true; before]).extend(levels);
                        }
                        None => {
                            if let Some(valid) = &mut valid {
                                valid.resize(values.len(), true);
                            }
                        }
                    }
                }
                _ => return Ok(None),
            }
        }
        if values.len() != rows {
            return Err(broken());
        }
        values.finish(valid.map(|valid| NullBuffer::new(BooleanBuffer::from(valid))), data_type)
    }

    /// A page's bytes; `None` if they do not say how many they are.
    fn page(&mut self, bytes: Bytes, compressed: bool) -> Result<Option<Buffer>> {
        if !compressed || bytes.is_empty() {
            return Ok(Some(Buffer::from(bytes)));
        }
        let Ok(Some(size)) = get_frame_content_size(&bytes) else { return Ok(None) };
        let size = usize::try_from(size).ok().filter(|size| i32::try_from(*size).is_ok()).ok_or_else(broken)?;
        Ok(Some(Buffer::from_vec(self.zstd.decompress(&bytes, size)?)))
    }
}

fn broken() -> ParquetError {
    ParquetError::General("a page does not hold what it promises".to_owned())
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Bytes { views, .. } => views.len(),
            Self::Longs { values, .. } => values.len(),
        }
    }

    fn knows(&self, encoding: Encoding) -> bool {
        match encoding {
            Encoding::PLAIN | Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => true,
            Encoding::DELTA_BINARY_PACKED => matches!(self, Self::Longs { .. }),
            _ => false,
        }
    }

    fn dictionary(&mut self, page: Buffer, count: usize) -> Option<()> {
        match self {
            Self::Bytes { buffers, dictionary, .. } => plain_bytes(page, 0, count, buffers, dictionary),
            Self::Longs { dictionary, .. } => plain_longs(&page, count, dictionary),
        }
    }

    /// Adds the `count` values of a data page that begin at `start`.
    fn page(&mut self, page: Buffer, start: usize, count: usize, encoding: Encoding) -> Option<()> {
        match (self, encoding) {
            (Self::Bytes { views, buffers, .. }, Encoding::PLAIN) => plain_bytes(page, start, count, buffers, views),
            (Self::Longs { values, .. }, Encoding::PLAIN) => plain_longs(page.get(start..)?, count, values),
            (Self::Longs { values, .. }, Encoding::DELTA_BINARY_PACKED) => deltas(page.get(start..)?, count, values),
            (Self::Bytes { views, dictionary, .. }, _) => references(page.get(start..)?, count, dictionary, views),
            (Self::Longs { values, dictionary }, _) => references(page.get(start..)?, count, dictionary, values),
        }
    }

    /// Makes room for the nulls among what came after `before`.
    fn spread(&mut self, before: usize, levels: &[bool]) {
        match self {
            Self::Bytes { views, .. } => spread(views, before, levels),
            Self::Longs { values, .. } => spread(values, before, levels),
        }
    }

    fn finish(self, nulls: Option<NullBuffer>, data_type: &DataType) -> Result<Option<ArrayRef>> {
        Ok(match (self, data_type) {
            (Self::Bytes { views, buffers, .. }, _) => {
                Some(Arc::new(BinaryViewArray::try_new(views.into(), buffers, nulls)?))
            }
            (Self::Longs { values, .. }, DataType::Timestamp(_, zone)) => {
                let values = TimestampMicrosecondArray::try_new(values.into(), nulls)?;
                Some(Arc::new(values.with_timezone_opt(zone.clone())))
            }
            (Self::Longs { values, .. }, _) => Some(Arc::new(Int64Array::try_new(values.into(), nulls)?)),
        })
    }
}

fn spread<T: Copy + Default>(values: &mut Vec<T>, before: usize, levels: &[bool]) {
    let mut present = values.split_off(before).into_iter();
    values.extend(levels.iter().map(|there| if *there { present.next().unwrap_or_default() } else { T::default() }));
}

/// Where the values of a page begin, and which rows have one; `None` if all have.
fn levels(page: &[u8], count: usize) -> Option<(usize, Option<Vec<bool>>)> {
    let (length, rest) = page.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (mut levels, mut all) = (Vec::new(), 0);
    hybrid(rest.get(..length)?, 1, count, |level, times| {
        if level == 1 && levels.is_empty() {
            all += times;
        } else {
            if levels.is_empty() {
                levels = vec![true; all];
            }
            levels.resize(levels.len() + times, level == 1);
        }
        Some(())
    })?;
    Some((4 + length, (all < count).then_some(levels)))
}

fn plain_bytes(
    page: Buffer,
    start: usize,
    count: usize,
    buffers: &mut Vec<Buffer>,
    views: &mut Vec<u128>,
) -> Option<()> {
    let block = u32::try_from(buffers.len()).ok()?;
    let (mut rest, mut at) = (page.get(start..)?, start);
    views.reserve(count.min(rest.len()));
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (value, tail) = tail.split_at_checked(length)?;
        views.push(make_view(value, block, u32::try_from(at + 4).ok()?));
        (rest, at) = (tail, at + 4 + length);
    }
    buffers.push(page);
    Some(())
}

fn plain_longs(bytes: &[u8], count: usize, values: &mut Vec<i64>) -> Option<()> {
    let (longs, _) = bytes.get(..count.checked_mul(8)?)?.as_chunks::<8>();
    values.extend(longs.iter().map(|long| i64::from_le_bytes(*long)));
    Some(())
}

fn references<T: Copy>(bytes: &[u8], count: usize, dictionary: &[T], values: &mut Vec<T>) -> Option<()> {
    let (width, rest) = bytes.split_first()?;
    hybrid(rest, u32::from(*width), count, |reference, times| {
        let value = *dictionary.get(reference as usize)?;
        values.extend(std::iter::repeat_n(value, times));
        Some(())
    })
}

/// Reads `count` numbers of `width` bits that are written as runs or packed, and tells each with how often it follows itself.
fn hybrid(bytes: &[u8], width: u32, count: usize, mut tell: impl FnMut(u32, usize) -> Option<()>) -> Option<()> {
    if width > 32 {
        return None;
    }
    let (mut rest, mut left) = (bytes, count);
    while left > 0 {
        let head = varint(&mut rest)?;
        let times = usize::try_from(head >> 1).ok()?;
        if head & 1 == 1 {
            let (packed, tail) = rest.split_at_checked(times.checked_mul(width as usize)?.min(rest.len()))?;
            rest = tail;
            let here = times.checked_mul(8)?.min(left);
            left -= here;
            unpack(packed, width, here, |number| tell(number as u32, 1))?;
        } else {
            let (run, tail) = rest.split_at_checked(width.div_ceil(8) as usize)?;
            rest = tail;
            let number = run.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
            let here = times.min(left);
            // A run of none would go on forever.
            left = left.checked_sub(here).filter(|_| here > 0)?;
            tell(number, here)?;
        }
    }
    Some(())
}

/// Reads `count` numbers of `width` bits each, the lowest first.
fn unpack(bytes: &[u8], width: u32, count: usize, mut tell: impl FnMut(u64) -> Option<()>) -> Option<()> {
    let (mut bits, mut held, mut bytes) = (0_u128, 0, bytes.iter());
    let mask = (1_u128 << width) - 1;
    for _ in 0..count {
        while held < width {
            bits |= u128::from(*bytes.next()?) << held;
            held += 8;
        }
        tell((bits & mask) as u64)?;
        bits >>= width;
        held -= width;
    }
    Some(())
}

/// Reads `count` numbers that are written by what each has more than the one before it.
fn deltas(bytes: &[u8], count: usize, values: &mut Vec<i64>) -> Option<()> {
    let mut rest = bytes;
    let block = usize::try_from(varint(&mut rest)?).ok()?;
    let parts = usize::try_from(varint(&mut rest)?).ok()?;
    let per_part = block.checked_div(parts)?;
    if varint(&mut rest)? != count as u64 || per_part == 0 {
        return None;
    }
    let (mut last, mut left) = (zigzag(varint(&mut rest)?), count);
    if left > 0 {
        values.push(last);
        left -= 1;
    }
    while left > 0 {
        let least = zigzag(varint(&mut rest)?);
        let (widths, tail) = rest.split_at_checked(parts)?;
        rest = tail;
        for width in widths.iter().map(|width| u32::from(*width)) {
            if left == 0 {
                break;
            }
            let (packed, tail) = rest.split_at_checked((per_part.checked_mul(width as usize)? / 8).min(rest.len()))?;
            rest = tail;
            let here = per_part.min(left);
            left -= here;
            unpack(packed, width.min(64), here, |more| {
                last = last.wrapping_add(least).wrapping_add(more as i64);
                values.push(last);
                Some(())
            })?;
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
