//! What is known of immutable files, as much of it as fits.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps what was used last, up to so many bytes.
pub(crate) struct Cache<V> {
    limit: usize,
    kept: Mutex<Kept<V>>,
}

struct Kept<V> {
    entries: HashMap<Arc<str>, Entry<V>>,
    /// By when they were used.
    order: BTreeMap<u64, Arc<str>>,
    bytes: usize,
    uses: u64,
}

struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

impl<V> Cache<V> {
    pub(crate) fn new(limit: usize) -> Self {
        let kept = Kept { entries: HashMap::new(), order: BTreeMap::new(), bytes: 0, uses: 0 };
        Self { limit, kept: Mutex::new(kept) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<V>> {
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *guard;
        kept.uses += 1;
        let entry = kept.entries.get_mut(key)?;
        if let Some(key) = kept.order.remove(&entry.used) {
            kept.order.insert(kept.uses, key);
        }
        entry.used = kept.uses;
        Some(Arc::clone(&entry.value))
    }

    /// Keeps a value that takes so many bytes, and lets go of others if need be. One that is larger than the limit is not kept.
    pub(crate) fn put(&self, key: &str, value: &Arc<V>, bytes: usize) {
        if bytes > self.limit {
            return;
        }
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *guard;
        kept.uses += 1;
        let key: Arc<str> = key.into();
        let entry = Entry { value: Arc::clone(value), bytes, used: kept.uses };
        if let Some(before) = kept.entries.insert(Arc::clone(&key), entry) {
            kept.order.remove(&before.used);
            kept.bytes -= before.bytes;
        }
        kept.order.insert(kept.uses, key);
        kept.bytes += bytes;
        while kept.bytes > self.limit {
            let Some(entry) = kept.order.pop_first().and_then(|(_, oldest)| kept.entries.remove(&oldest)) else {
                return;
            };
            kept.bytes -= entry.bytes;
        }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let cache = Cache::new(10);
        for key in ["a", "b", "c"] {
            cache.put(key, &Arc::new(key), 3);
        }
        assert_eq!(cache.get("a").as_deref(), Some(&"a"));
        cache.put("d", &Arc::new("d"), 4);
        let there = |cache: &Cache<&str>| ["a", "b", "c", "d"].map(|key| cache.get(key).is_some());
        assert_eq!(there(&cache), [true, false, true, true]);
        cache.put("a", &Arc::new("A"), 5);
        assert_eq!(there(&cache), [true, false, false, true]);
        cache.put("d", &Arc::new("large"), 11);
        assert_eq!(cache.get("d").as_deref(), Some(&"d"));
    }
}
