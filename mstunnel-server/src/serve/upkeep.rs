//! Looks after the kernel's egress, which others can take apart: a firewall that is loaded anew, an administrator who
//! tidies up, a sysctl file (R82).

use std::time::Duration;

use tokio::sync::mpsc;

use super::conditions::Condition;
use crate::egress::{EgressError, Fault, Kept};

/// How long clients may be without a fence, or without a network.
const PERIOD: Duration = Duration::from_secs(5);

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
            Ok(outcome) => note(&condition, outcome.map_err(|error| error.to_string())),
            Err(panic) => note(&condition, Err(panic.to_string())),
        }
    }
}

/// Takes the outcome of a check up.
fn note(condition: &Condition, outcome: Result<Vec<Fault>, String>) {
    let reason = match outcome {
        Ok(faults) => {
            for fault in faults {
                tracing::warn!("{fault}; put right, but somebody on this host changes what is the server's");
            }
            None
        }
        Err(reason) => Some(reason),
    };
    condition.set(reason.map(|reason| format!("the egress is not as it should be: {reason}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_right_is_a_problem_for_as_long_as_it_lasts() {
        let condition = Condition::default();
        note(&condition, Ok(vec![Fault::TableMissing]));
        assert_eq!(condition.problem(), None, "it was put right");
        note(&condition, Err("the program nft is missing".to_owned()));
        assert!(condition.problem().unwrap().contains("nft is missing"));
        note(&condition, Ok(Vec::new()));
        assert_eq!(condition.problem(), None);
    }
}
