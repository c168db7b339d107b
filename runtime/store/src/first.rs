//! Short texts of which the first one counts: who comes later with another is told that one.
//!
//! Advice: nothing is lost but likeness with earlier results when they are forgotten, so they are not
//! synced, and all go when there are too many.

use rusqlite::{OptionalExtension as _, params};

use crate::error::Result;
use crate::store::Store;

/// Most texts that are kept.
const MOST: i64 = 4096;

impl Store {
    /// What was first said under `name`: `text`, when nothing was.
    pub fn first(&self, name: &str, text: &str) -> Result<String> {
        let name = format!("first {name}");
        let known = self.read("look up a text", |c| {
            c.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
                .query_row(params![name], |r| r.get::<_, String>(0))
                .optional()
        })?;
        if let Some(known) = known {
            return Ok(known);
        }
        self.write("keep a text", |t| {
            let all = "name >= 'first ' AND name < 'first!'";
            let count: i64 =
                t.query_row(&format!("SELECT count(*) FROM meta WHERE {all}"), [], |r| r.get(0))?;
            if count >= MOST {
                t.execute(&format!("DELETE FROM meta WHERE {all}"), [])?;
            }
            // Another process may have been faster.
            Ok(t.query_row(
                "INSERT INTO meta VALUES(?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET value = value RETURNING value",
                params![name, text],
                |r| r.get(0),
            )?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenOptions;

    #[test]
    fn the_first_text_counts_until_there_are_too_many() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let first = |name: &str, text: &str| store.first(name, text).unwrap();
        assert_eq!(first("a", "1"), "1");
        assert_eq!(first("a", "2"), "1");
        assert_eq!(first("b", "2"), "2");
        let again = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        assert_eq!(again.first("a", "3").unwrap(), "1");
        for n in 2..MOST {
            first(&n.to_string(), "");
        }
        assert_eq!(first("a", "4"), "1");
        first("one too many", "");
        assert_eq!(first("a", "4"), "4");
    }
}
