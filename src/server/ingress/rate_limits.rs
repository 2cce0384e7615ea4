//! Applies the limits of request rates: of an address, of an address to one service, and of a client over all visitors.
//!
//! What is only a little beyond a rate is delayed instead of refused. A raw connection counts as one request.

use std::net::IpAddr;

use crate::limits::{Delay, RetryAfter};
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::visitor_limits::VisitorLimits;

impl VisitorLimits {
    /// Admits a request of `visitor`, whatever it is for.
    ///
    /// # Errors
    /// The address has sent too many, or too many requests are delayed.
    pub(crate) async fn admit_visitor(&self, visitor: IpAddr) -> Result<(), Failure> {
        self.pass(self.requests.check(visitor)).await.map_err(Failure::RateLimited)
    }

    /// Admits a request of `visitor` to a service, which may have a lower limit.
    ///
    /// # Errors
    /// As [`Self::admit_visitor`].
    pub(crate) async fn admit_to_service(&self, offered: &Offered, visitor: IpAddr) -> Result<(), Failure> {
        let Some(rate) = offered.service.rate() else { return Ok(()) };
        self.pass(rate.check(visitor)).await.map_err(Failure::RateLimited)
    }

    /// Admits a request to the client of a service, whose limit is one for all visitors and tunnels.
    ///
    /// # Errors
    /// The client gets too many, or too many requests are delayed.
    pub(crate) async fn admit_to_client(&self, offered: &Offered) -> Result<(), Failure> {
        self.pass(offered.tunnel.usage().check()).await.map_err(Failure::SiteRateLimited)
    }

    /// Waits until a request that is beyond a rate may go on.
    async fn pass(&self, checked: Result<Option<Delay>, RetryAfter>) -> Result<(), RetryAfter> {
        let Some(Delay { time, refusal }) = checked? else { return Ok(()) };
        let _permit = self.delayed.try_acquire().ok_or(refusal)?;
        // Boxed, because few requests wait, and all would hold it.
        Box::pin(tokio::time::sleep(time)).await;
        Ok(())
    }
}
