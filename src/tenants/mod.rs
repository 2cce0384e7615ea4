//! Tenants: which clients may log in and what they own. The clients file, its entries, and changes to it.

pub mod applied;
pub mod claim;
pub mod clients;
pub mod draft;
pub mod edit;
pub mod entry;
pub mod file_store;
pub mod limits;
pub mod ownership;
pub mod stamp;
