//! Both ends against each other in virtual time.

mod behaviour;
mod harness;
mod weather;
