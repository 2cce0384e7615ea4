//! Who has which names and domains: taken over by newer agents of a client, given back when those leave.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Books, RegisterError, Registry};
use crate::server::service::Service;
use crate::server::tunnel::{Retired, Tunnel};
use crate::values::{ClientId, Domain, InstanceId, Name, TunnelId};

impl Registry {
    /// Gives the names and domains of these services to `tunnel`, but for those that it has lost to a newer one.
    pub(super) fn claim_each<'s>(
        &self,
        books: &mut Books,
        tunnel: &Arc<Tunnel>,
        services: impl Iterator<Item = &'s Arc<Service>>,
    ) {
        let (client, instance) = (tunnel.client(), tunnel.instance());
        let mut taken = Vec::new();
        for service in services {
            // The newer holder keeps what this agent has lost to it.
            if self.is_barred(books, client, instance, service) {
                // The agent was told that it is offered.
                tunnel.names_moved();
                continue;
            }
            let name = service.name();
            books.lost.forget(client, instance, name);
            for older in self.names.claim(name.clone(), tunnel, service) {
                books.lost.remember(client, older.tunnel.instance(), name);
                self.forget(&older.service, older.tunnel.id());
                older.tunnel.names_moved();
                taken.push(name.as_str());
            }
            for domain in &service.offer().domains {
                self.domains.claim(domain.clone(), tunnel, service);
            }
        }
        if !taken.is_empty() {
            let (names, to) = (taken.join(","), tunnel.peer());
            tracing::info!(%client, names, %to, "a newer agent of the same client has taken names over");
        }
    }

    /// Names and domains that `gone` gave up go to whoever of its client offers them, too: to the newest, and to those that
    /// share them with it. Nobody loses anything by that.
    fn give_back(&self, books: &mut Books, gone: &Tunnel, services: &[Arc<Service>]) {
        let names: HashSet<&Name> =
            services.iter().map(|service| service.name()).filter(|name| !self.names.is_held(name)).collect();
        let domains = services.iter().flat_map(|service| &service.offer().domains);
        let domains: HashSet<&Domain> = domains.filter(|domain| !self.domains.is_held(domain)).collect();
        if names.is_empty() && domains.is_empty() {
            return;
        }
        let others = self.tunnels_of(gone.client());
        for heir in others.iter().rev().filter(|other| other.id() != gone.id() && other.is_serving()) {
            let mut back = Vec::new();
            for service in heir.services().iter() {
                let name = service.name();
                if names.contains(name) && self.names.join(name.clone(), heir, service) {
                    books.lost.forget(heir.client(), heir.instance(), name);
                    back.push(name.to_string());
                }
                let is_its = self.names.leads_to(name, heir.id());
                for domain in service.offer().domains.iter().filter(|domain| is_its && domains.contains(domain)) {
                    self.domains.join(domain.clone(), heir, service);
                }
            }
            if !back.is_empty() {
                heir.names_moved();
                let (names, to) = (back.join(","), heir.peer());
                tracing::info!(client = %heir.client(), names, %to, "names have gone back to an older agent");
            }
        }
    }

    /// What an agent offers from now on instead of what it offered before. Services that are the same ones in `services`
    /// are not touched. Names and domains come and go in one step.
    ///
    /// # Errors
    /// Another client holds one of the names or domains; nothing has changed then.
    pub fn change_services(&self, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        let mut books = self.books.lock();
        self.check_foreign(tunnel.client(), &services)?;
        self.exchange_services(&mut books, tunnel, services);
        drop(books);
        self.changed();
        Ok(())
    }

    /// Takes away what a tunnel may not offer any more. Gives back how many services there were, and how many are left;
    /// with none left nothing is changed.
    pub fn retain_services(&self, tunnel: &Arc<Tunnel>, keep: impl Fn(&Service) -> bool) -> (usize, usize) {
        // Looked at under the lock: no change of the agent's own comes in between.
        let mut books = self.books.lock();
        let before = tunnel.services();
        let kept: Vec<Arc<Service>> = before.iter().filter(|service| keep(service)).cloned().collect();
        let count = (before.len(), kept.len());
        if count.1 > 0 && count.1 < count.0 {
            self.exchange_services(&mut books, tunnel, kept);
            drop(books);
            self.changed();
        }
        count
    }

    /// Gives a tunnel services that it had before, beside those that it has now.
    ///
    /// # Errors
    /// Another client holds one of the names or domains; nothing has changed then.
    pub fn return_services(&self, tunnel: &Arc<Tunnel>, back: Vec<Arc<Service>>) -> Result<(), RegisterError> {
        // Looked at under the lock: no change of the agent's own comes in between.
        let mut books = self.books.lock();
        let mut services = tunnel.services().to_vec();
        let is_there = |service: &Arc<Service>| services.iter().any(|other| other.name() == service.name());
        let back: Vec<_> = back.into_iter().filter(|service| !is_there(service)).collect();
        self.check_foreign(tunnel.client(), &back)?;
        services.extend(back);
        self.exchange_services(&mut books, tunnel, services);
        drop(books);
        self.changed();
        Ok(())
    }

    fn exchange_services(&self, books: &mut Books, tunnel: &Arc<Tunnel>, services: Vec<Arc<Service>>) {
        let before = tunnel.services();
        let is_in =
            |list: &[Arc<Service>], service: &Arc<Service>| list.iter().any(|other| Arc::ptr_eq(other, service));
        let is_up = tunnel.is_serving();
        // New ones first: a name that only changes is never without a holder.
        if is_up {
            self.claim_each(books, tunnel, services.iter().filter(|service| !is_in(&before, service)));
        }
        for gone in before.iter().filter(|service| !is_in(&services, service)) {
            if !services.iter().any(|service| service.name() == gone.name()) {
                self.names.release(gone.name(), tunnel.id());
            }
            let kept = |domain: &Domain| services.iter().any(|service| service.offer().domains.contains(domain));
            for domain in gone.offer().domains.iter().filter(|domain| !kept(domain)) {
                self.domains.release(domain, tunnel.id());
            }
        }
        tunnel.set_services(services.into());
        if is_up {
            self.give_back(books, tunnel, &before);
            for other in self.tunnels_of(tunnel.client()).into_iter().filter(|other| other.id() != tunnel.id()) {
                self.retire_if_nameless(books, &other, tunnel.agent());
            }
        }
    }

    /// Those of a tunnel's services that its names lead to: the others were taken over by newer logins.
    pub fn held(&self, tunnel: &Tunnel) -> Vec<Arc<Service>> {
        let services = tunnel.services();
        services.iter().filter(|service| self.names.leads_to(service.name(), tunnel.id())).cloned().collect()
    }

    /// Whether the tunnel, on its way in, takes the name of `service` from another agent of its client.
    pub fn takes_over(&self, tunnel: &Tunnel, service: &Service) -> bool {
        let (client, instance) = (tunnel.client(), tunnel.instance());
        // What it has lost to the other one, that one keeps.
        let is_lost = self.books.lock().lost.contains(client, instance, service.name());
        !is_lost && self.names.is_held_against(service.name(), instance, client, service)
    }

    /// Whether this agent has lost the name of `service` to one that holds it still, and would not share it.
    pub(super) fn is_barred(&self, books: &Books, client: &ClientId, instance: InstanceId, service: &Service) -> bool {
        books.lost.contains(client, instance, service.name())
            && self.names.is_held_against(service.name(), instance, client, service)
    }

    pub(super) fn retire_if_nameless(&self, books: &mut Books, old: &Arc<Tunnel>, by: &str) {
        let services = old.services();
        if old.is_serving() && !services.iter().any(|service| self.names.leads_to(service.name(), old.id())) {
            self.forget_names(books, old);
            old.retire(Retired::Replaced { by: by.to_owned() });
        }
    }

    pub(super) fn forget_names(&self, books: &mut Books, tunnel: &Tunnel) {
        let services = tunnel.services();
        services.iter().for_each(|service| self.forget(service, tunnel.id()));
        self.give_back(books, tunnel, &services);
    }

    fn forget(&self, service: &Service, tunnel: TunnelId) {
        self.names.release(service.name(), tunnel);
        service.offer().domains.iter().for_each(|domain| self.domains.release(domain, tunnel));
    }
}
