//! Channels: the ways by which a conversation reaches people elsewhere, and they it.
//!
//! A bell says that a conversation has messages for a channel; whoever hears it sends what its mark does not cover, in order. A connector
//! that is down is left alone for a while by its breaker: bells wait in their queue, messages in their conversation, and nothing is lost.

mod breaker;
mod connector;
mod delivery;
mod inbound;
mod store;

pub use breaker::{Admission, Breaker, PROBE, TRIPS_AFTER};
pub use connector::{Connector, ConnectorFault, ConnectorKind, ConnectorStore, ConnectorView};
pub use delivery::{Deliveries, DeliveryFault, Outlet, OutletFault, Parcel, Receipt, Refused};
pub use inbound::{Inbound, InboundFault, Incoming};
pub use store::{ChannelBell, ChannelMarks, ChannelQueue, Link, Links, Mark, Outside, TOLD_OF};
