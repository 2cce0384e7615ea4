//! Tenants: which clients may log in, what they own, and who is invited.
//!
//! - `entry`: [`ClientsFile`](entry::ClientsFile), the list of clients and invitations, and how it is read
//! - `ownership`: no name, domain or port belongs to two clients; `claim`: one entry of `names`
//! - `edit`: the changes that can be made to the list; `list_change`: changes to one list of a client
//! - `entry_request`: checks a client or an invitation that is requested over the admin API
//! - `clients`: [`Clients`](clients::Clients), the list in force, indexed for logins and visitors
//! - `store`: [`ClientStore`](store::ClientStore), where the list is kept; `file_store`: `clients.toml`

pub mod claim;
pub mod client_limits;
pub mod clients;
pub mod edit;
pub mod edit_error;
pub mod entry;
pub mod entry_request;
pub mod file_store;
pub mod list_change;
pub mod ownership;
pub mod store;
