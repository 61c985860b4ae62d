//! User tokens.

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::id::{AppId, OpenId};
use domain::token::{TokenStore, UserToken};

use crate::Table;
use crate::item::{self, Item, fault, text};

fn pk(app_id: &AppId, open_id: &OpenId) -> String {
    format!("USER#{app_id}#{open_id}")
}

pub(crate) fn item(token: &UserToken) -> Result<Item, PortFault> {
    item::item("token", pk(&token.app_id, &token.open_id), token)
}

#[async_trait]
impl TokenStore for Table {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(app_id, open_id))).key("sk", text("TOKEN"));
        let answer = request.send().await.map_err(fault("GetItem token"))?;
        answer.item.map(item::parse).transpose()
    }
}
