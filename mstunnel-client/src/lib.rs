//! The place of mstunnel's own client: a userspace stack, a TUN mode and a load generator.
//!
//! Empty in this version. The client's side of the protocol is in `mstunnel_proto` already
//! (`connect`, `http::ResponseReader`, `session::ClientSession`); stock `openconnect` is the client to use.
