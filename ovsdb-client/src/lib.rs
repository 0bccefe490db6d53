//! An OVSDB (RFC 7047) client.

pub mod jsonrpc;
