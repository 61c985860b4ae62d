//! How many messages have each value of a column.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, StringArray};
use domain::lake::Kind;
use futures_util::stream::TryStreamExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::condition::Condition;
use crate::fault::ReadFault;
use crate::file::Form;
use crate::messages::for_each_group;
use crate::{Filter, Reader, few_at_once};

/// The most values that are told apart.
const VALUES: usize = 100_000;

/// How many days are counted at once.
const DAYS_AT_ONCE: usize = 4;

#[derive(Default)]
struct Counts {
    null: u64,
    values: HashMap<String, u64>,
}

impl Counts {
    fn add(&mut self, value: Option<&str>, count: u64) {
        match value {
            None => self.null += count,
            Some(value) => match self.values.get_mut(value) {
                Some(known) => *known += count,
                None => drop(self.values.insert(value.to_owned(), count)),
            },
        }
    }
}

pub(crate) async fn count_by(
    reader: &Reader,
    filter: &Filter,
    column: &str,
) -> Result<Vec<(Option<String>, u64)>, ReadFault> {
    let condition = &Condition::new(filter, None);
    let view = &reader.view(Kind::Messages, condition.days()).await?;
    view.schema_of(&[column.to_owned()])?;
    let files = view.days.values().flatten().filter(|file| condition.may_be_in(&file.stats));
    reader.allow(files.map(|file| file.bytes).sum())?;

    let days = view.days.iter().map(|(day, files)| async move {
        let whole;
        let mut condition = condition;
        if condition.has_all_of(*day) {
            whole = condition.without_time();
            condition = &whole;
        }
        let mut counts = Counts::default();
        if !files.iter().any(|file| condition.may_be_in(&file.stats)) {
            return Ok(counts);
        }
        let twins = view.twins(files).await?;
        for_each_group(view, files, condition, &[column], |group| {
            let rows = group.rows(condition, &twins)?;
            if rows.is_empty() {
                return Ok(());
            }
            match group.columns(&rows, &[column], Form::Keyed)?.column_by_name(column) {
                Some(values) => count(values, &mut counts),
                None => counts.null += rows.iter().map(|range| range.len() as u64).sum::<u64>(),
            }
            if counts.values.len() > VALUES {
                return Err(ReadFault::TooManyValues { column: column.to_owned(), limit: VALUES });
            }
            Ok(())
        })
        .await?;
        Ok::<_, ReadFault>(counts)
    });
    let mut days = few_at_once(days, DAYS_AT_ONCE);
    let mut all = Counts::default();
    while let Some(day) = days.try_next().await? {
        all.null += day.null;
        day.values.into_iter().for_each(|(value, count)| all.add(Some(&value), count));
        if all.values.len() > VALUES {
            return Err(ReadFault::TooManyValues { column: column.to_owned(), limit: VALUES });
        }
    }
    let null = (all.null > 0).then_some((None, all.null));
    let values = all.values.into_iter().map(|(value, count)| (Some(value), count));
    let mut counts: Vec<_> = null.into_iter().chain(values).collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(counts)
}

fn count(values: &ArrayRef, counts: &mut Counts) {
    if let Some(keyed) = values.as_dictionary_opt::<Int32Type>() {
        let texts: Option<&StringArray> = keyed.values().as_string_opt();
        let mut by_key = vec![0_u64; keyed.values().len()];
        let mut nulls = keyed.null_count() as u64;
        for key in keyed.keys().iter().flatten() {
            if let Some(count) = usize::try_from(key).ok().and_then(|key| by_key.get_mut(key)) {
                *count += 1;
            }
        }
        for (key, count) in by_key.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            match texts.filter(|texts| texts.is_valid(key)) {
                Some(texts) => counts.add(Some(texts.value(key)), count),
                None => nulls += count,
            }
        }
        counts.null += nulls;
    } else if let Some(texts) = values.as_string_opt::<i32>() {
        texts.iter().for_each(|text| counts.add(text, 1));
    } else if let Some(numbers) = values.as_primitive_opt::<Int64Type>() {
        integers(numbers.iter(), counts, |number| Some(number.to_string()));
    } else if let Some(times) = values.as_primitive_opt::<TimestampMicrosecondType>() {
        integers(times.iter(), counts, |micros| {
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?.format(&Rfc3339).ok()
        });
    }
}

fn integers(numbers: impl Iterator<Item = Option<i64>>, counts: &mut Counts, text: impl Fn(i64) -> Option<String>) {
    let mut by_number: HashMap<Option<i64>, u64> = HashMap::new();
    numbers.for_each(|number| *by_number.entry(number).or_default() += 1);
    for (number, count) in by_number {
        counts.add(number.and_then(&text).as_deref(), count);
    }
}
