//! A kernel egress that one task looks after while another may end the server.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kernel::{EgressError, Fault, KernelEgress};

/// Clones share it; once closed there is nothing to look after.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Arc<Mutex<Option<KernelEgress>>>);

impl Kept {
    pub(crate) fn new(egress: KernelEgress) -> Self {
        Self(Arc::new(Mutex::new(Some(egress))))
    }

    /// As [`KernelEgress::check`]; never between a close and the end of the process, where a repair would put back what
    /// was just removed.
    pub(crate) fn check(&self) -> Result<Vec<Fault>, EgressError> {
        self.lock().as_ref().map_or(Ok(Vec::new()), KernelEgress::check)
    }

    /// As [`KernelEgress::set_dns`].
    pub(crate) fn set_dns(&self, dns: Vec<IpAddr>) -> Result<(), EgressError> {
        self.lock().as_mut().map_or(Ok(()), |egress| egress.set_dns(dns))
    }

    /// As [`KernelEgress::masquerades`].
    pub(crate) fn masquerades(&self) -> bool {
        self.lock().as_ref().is_some_and(KernelEgress::masquerades)
    }

    /// As [`KernelEgress::close`], after a check that is running.
    pub(crate) fn close(&self) -> Result<(), EgressError> {
        let egress = self.lock().take();
        egress.map_or(Ok(()), KernelEgress::close)
    }

    fn lock(&self) -> MutexGuard<'_, Option<KernelEgress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
