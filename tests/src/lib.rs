//! Integration tests that run inside the lab guest.
