//! Where the list of clients is kept.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::schema::ConfigErrors;
use crate::tenants::clients::Clients;
use crate::tenants::edit_error::EditError;
use crate::tenants::entry::ClientsFile;

/// A future that a store returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A change to the list. Returns whether the changed list is to be stored. A store may call it again, with a fresh copy
/// of the list.
pub type Edit = Box<dyn FnMut(&mut ClientsFile) -> bool + Send>;

/// Keeps the list of clients and invitations for a server. Logins and visitors read [`ClientStore::clients`], which the
/// store updates; everything else is rare.
pub trait ClientStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the list in force.
    fn clients(&self) -> &Arc<Clients>;

    /// Returns the problems of the stored list, if it is invalid. Then the previous list stays in force.
    fn problems(&self) -> Option<ConfigErrors>;

    /// Changes the stored list in one transaction. When this returns, the changed list is in force. Use
    /// [`edit`](trait@ClientStore#method.edit) of the trait object instead, which returns what the change returns.
    fn transact(&self, edit: Edit) -> StoreFuture<'_, Result<(), EditError>>;

    /// Waits until the list in force is as new as the stored one, for a bounded time. Every login calls this first.
    fn refresh(&self) -> StoreFuture<'_, ()>;

    /// Reads the stored list on request of the operator and puts it in force. An invalid list changes nothing but
    /// [`ClientStore::problems`].
    fn reload(&self) -> StoreFuture<'_, ()>;

    /// Reads the stored list without putting it in force, so that it can be applied together with something else.
    fn load(&self) -> StoreFuture<'_, Result<LoadedClients<'_>, ConfigErrors>>;

    /// Puts every stored change in force, until `stop`.
    fn watch(self: Arc<Self>, stop: CancellationToken) -> StoreFuture<'static, ()>;
}

impl dyn ClientStore {
    /// Makes one of the changes of [`ClientsFile`] and returns its result. When this returns, the changed list is in
    /// force.
    ///
    /// # Errors
    /// `edit` fails, or the store refuses the changed list; nothing is changed then.
    pub async fn edit<T, E>(
        &self,
        mut edit: impl FnMut(&mut ClientsFile) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EditError> + Send + 'static,
    {
        let result = Arc::new(Mutex::new(None));
        let returned = Arc::clone(&result);
        let stored = self
            .transact(Box::new(move |file| {
                let result = edit(file);
                let is_ok = result.is_ok();
                *returned.lock() = Some(result);
                is_ok
            }))
            .await;
        let result = result.lock().take();
        match (stored, result) {
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(EditError::Io(std::io::Error::other("the store did not make the change")).into()),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// A list that was read and is valid, but not in force yet.
#[must_use = "it changes nothing until it is applied"]
pub struct LoadedClients<'a> {
    file: ClientsFile,
    apply: Box<dyn FnOnce(ClientsFile) -> bool + Send + 'a>,
}

impl<'a> LoadedClients<'a> {
    /// Creates one of `file`. `apply` puts it in force and returns whether it differs from the list before.
    pub fn new(file: ClientsFile, apply: impl FnOnce(ClientsFile) -> bool + Send + 'a) -> Self {
        Self { file, apply: Box::new(apply) }
    }

    /// Returns the list.
    pub fn file(&self) -> &ClientsFile {
        &self.file
    }

    /// Puts the list in force. Returns whether it differs from the list before.
    pub fn apply(self) -> bool {
        (self.apply)(self.file)
    }
}
