//! Events to redb.
