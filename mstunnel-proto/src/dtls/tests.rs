//! Both ends against each other in virtual time.

mod behaviour;
mod golden;
mod harness;
mod renewal;
mod weather;
