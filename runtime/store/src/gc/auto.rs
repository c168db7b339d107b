//! Whether a build that has just ended should look for what may go. What costs is asked last: a
//! build that wrote nothing asks nothing.

use std::sync::atomic::Ordering;

use super::{Limits, Policy, Report};
use crate::error::Result;
use crate::index::size;
use crate::store::Store;

impl Store {
    /// Brings the cache within the bounds of `policy` if this handle wrote anything and they may be
    /// exceeded; `None`: there was nothing to do. Ends early, safely, at `stop`.
    pub fn gc_if_needed(&self, policy: &Policy, stop: &dyn Fn() -> bool) -> Result<Option<Report>> {
        if !self.wrote.load(Ordering::Relaxed) || !self.may_exceed(policy, stop)? {
            return Ok(None);
        }
        self.gc_until(policy, stop).map(Some)
    }

    /// False only when all bounds are kept.
    fn may_exceed(&self, policy: &Policy, stop: &dyn Fn() -> bool) -> Result<bool> {
        let disk = self.disk()?;
        let mut counted = None;
        for rule in &policy.cache {
            if rule.limits == Limits::default() {
                return Ok(true);
            }
            // Whatever else lies on the disk: the cache cannot take more than all of it.
            if rule.limits.keep(disk.used, disk.free).is_none_or(|keep| disk.used <= keep) {
                continue;
            }
            let used = match counted {
                Some(n) => n,
                None => {
                    self.count_sizes(false, stop)?;
                    *counted.insert(self.counted()?)
                }
            };
            if rule.limits.keep(used, disk.free).is_none_or(|keep| used > keep) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of all objects as they were counted: more than the cache alone.
    fn counted(&self) -> Result<u64> {
        self.read("add up what takes space", |c| {
            c.query_row(
                "SELECT (SELECT ifnull(sum(size), 0) FROM snapshots)
                      + (SELECT ifnull(sum(size + 4095 - (size + 4095) % 4096), 0) FROM blobs)
                      + (SELECT ifnull(sum(size), 0) FROM cache_mounts)",
                [],
                |r| size(r, 0),
            )
        })
    }
}
