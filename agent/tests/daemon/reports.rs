//! A report is said until the control plane has it, and not again.

use crate::cloud::Cloud;
use crate::device::Device;

async fn stored(device: &Device, is: bool) {
    let said = async |d: &Device| (d.status().await["report_stored"] == is).then_some(());
    device.until(&format!("report_stored is {is}"), said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_knows_when_its_report_is_stored_and_an_older_control_plane_does_not_tell_it() {
    let mut cloud = Cloud::start().await;
    cloud.settings.telemetry_interval_s = 1;
    cloud.want();
    let mut device = Device::started(&cloud).await;
    stored(&device, true).await;

    device.kill().await;
    cloud.state().says_no_report = true;
    device.spawn();
    let second = |state: &crate::cloud::State| (state.hellos.len() >= 2).then_some(state.records.len());
    let before = cloud.until("the second hello", second).await;
    cloud.until("records", |state| (state.records.len() > before + 2).then_some(())).await;
    stored(&device, false).await;

    // It is upgraded: the next acknowledgement says what it has.
    cloud.state().says_no_report = false;
    stored(&device, true).await;
}
