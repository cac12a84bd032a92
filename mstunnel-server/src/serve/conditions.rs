//! What is wrong with a server that serves on: kept for the status, and told to the log once.

use std::sync::{Arc, Mutex, PoisonError};

/// What is wrong with a part of the server now; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition(Arc<Mutex<Option<String>>>);

impl Condition {
    /// A sentence for an administrator, while there is something to say.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps `problem`, and tells the log if it is another one than before.
    pub(crate) fn set(&self, problem: Option<String>) {
        if let Some(problem) = self.replace(problem) {
            tracing::error!("{problem}");
        }
    }

    /// The same for what is to become a problem.
    pub(crate) fn warn(&self, warning: Option<String>) {
        if let Some(warning) = self.replace(warning) {
            tracing::warn!("{warning}");
        }
    }

    /// Returns the new sentence if it is another one than before.
    fn replace(&self, new: Option<String>) -> Option<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = new.clone().filter(|new| known.as_ref() != Some(new));
        *known = new;
        told
    }
}

/// What can go wrong; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// Fences, interface, forwarding.
    pub(crate) egress: Condition,
    /// Addresses that cannot be freed.
    pub(crate) addresses: Condition,
    /// A certificate that has expired.
    pub(crate) certificate: Condition,
    /// One that is to expire.
    pub(crate) renewal: Condition,
    /// Sessions that cannot be saved.
    pub(crate) store: Condition,
}

impl Conditions {
    /// A sentence each for an administrator.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        [&self.egress, &self.addresses, &self.certificate].into_iter().filter_map(Condition::problem)
    }

    /// The same for what leaves the server healthy: whoever starts an unhealthy one again would lose its sessions.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        [&self.renewal, &self.store].into_iter().filter_map(Condition::problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_of_what_lasts() {
        let condition = Condition::default();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(condition.replace(some("30 days")), some("30 days"));
        assert_eq!(condition.replace(some("30 days")), None);
        assert_eq!(condition.replace(some("29 days")), some("29 days"));
        assert_eq!(condition.replace(None), None);
        assert_eq!(condition.replace(some("29 days")), some("29 days"));
    }

    #[test]
    fn what_a_restart_would_make_worse_is_a_warning() {
        let conditions = Conditions::default();
        conditions.renewal.warn(Some("12 days".to_owned()));
        conditions.store.set(Some("no room".to_owned()));
        conditions.egress.set(Some("no fence".to_owned()));
        assert_eq!(conditions.problems().collect::<Vec<_>>(), ["no fence"]);
        assert_eq!(conditions.warnings().collect::<Vec<_>>(), ["12 days", "no room"]);
    }
}
