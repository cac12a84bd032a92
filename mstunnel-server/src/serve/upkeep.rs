//! Looks after the kernel's egress, which others can take apart: a firewall that is loaded anew, an administrator who
//! tidies up, a sysctl file (R82).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::egress::{EgressError, Fault, Kept};

/// How long clients may be without a fence, or without a network.
const PERIOD: Duration = Duration::from_secs(5);

/// What is wrong with a part of the server now; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition(Arc<Mutex<Option<String>>>);

impl Condition {
    /// A sentence for an administrator, while there is something to say.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the outcome of a check up, and tells the log what is new of it.
    fn note(&self, outcome: Result<Vec<Fault>, String>) {
        let problem = match outcome {
            Ok(faults) => {
                for fault in faults {
                    tracing::warn!(
                        "{fault}; put right, but somebody on this host changes what is the server's"
                    );
                }
                None
            }
            Err(reason) => Some(format!("the egress is not as it should be: {reason}")),
        };
        self.set(problem);
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

/// What can go wrong while the server serves on; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// Fences, interface, forwarding.
    pub(crate) egress: Condition,
    /// Addresses that cannot be freed.
    pub(crate) addresses: Condition,
    /// Sessions that cannot be saved.
    pub(crate) store: Condition,
    /// A certificate that has expired.
    pub(crate) certificate: Condition,
    /// One that is to expire: no problem yet, for who starts an unhealthy server again.
    pub(crate) renewal: Condition,
}

impl Conditions {
    /// A sentence each for an administrator.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        [&self.egress, &self.addresses, &self.store, &self.certificate]
            .into_iter()
            .filter_map(Condition::problem)
    }
}

/// Checks and repairs until the runtime ends; `report` hears of what ends the server.
pub(crate) async fn run(egress: Kept, condition: Condition, report: mpsc::UnboundedSender<String>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let checked = egress.clone();
        match tokio::task::spawn_blocking(move || checked.check()).await {
            Ok(Err(error @ EgressError::Gone { .. })) => {
                // The server may be past listening.
                let _ = report.send(error.to_string());
                return;
            }
            Ok(outcome) => condition.note(outcome.map_err(|error| error.to_string())),
            Err(panic) => condition.note(Err(panic.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_right_is_a_problem_for_as_long_as_it_lasts() {
        let condition = Condition::default();
        condition.note(Ok(vec![Fault::TableMissing]));
        assert_eq!(condition.problem(), None, "it was put right");
        condition.note(Err("the program nft is missing".to_owned()));
        assert!(condition.problem().unwrap().contains("nft is missing"));
        condition.note(Ok(Vec::new()));
        assert_eq!(condition.problem(), None);
    }

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
}
