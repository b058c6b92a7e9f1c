//! What the options add up to.

use config::vm::{ChardevBackend, DeviceKind};
use config::vm::{
    ChardevConfig, DeviceConfig, DriveConfig, GlobalProperty, MachineKind, MonitorConfig,
    MonitorMode, NetdevConfig, ObjectConfig, ObjectKind, QtestConfig, QtestLog, SerialConfig,
    Shorthand, VmConfig,
};
use config::{Error, OptionError, Options, Source, Value, device_types};

use super::{Stop, Stopped, help};

/// Collects what the options ask for. Devices wait until the end, since `-global` and `-netdev` may follow them.
#[derive(Debug, Default)]
pub struct Builder {
    /// What is settled already.
    pub config: VmConfig,
    /// `-m` was given.
    pub memory_given: bool,
    /// `-nodefaults` was given.
    pub nodefaults: bool,
    /// `-qtest-log`, which may come before `-qtest`.
    pub qtest_log: QtestLog,
    /// The first `-accel` that is not here, which counts if there is no other.
    pub accel_elsewhere: Option<OptionError>,
    /// `-only-migratable` was given.
    pub only_migratable: bool,
    /// `-kernel` and so on may not be given with `-machine none`.
    devices: Vec<String>,
    serials: u8,
    qmp_monitors: usize,
    serial_given: bool,
    monitor_given: bool,
}

type Outcome = Result<(), Stop>;

impl Builder {
    /// `-device`.
    pub(super) fn device(&mut self, argument: &str) -> Outcome {
        if argument == "help" || argument == "?" {
            return Err(Stop::Print(help::devices()));
        }
        let options = Options::parse(argument, Some("driver"))?;
        if options.asks_for_help()
            && let Some(driver) = options.text("driver")
        {
            return match device_types::find(&driver) {
                Some(device) => Err(Stop::Print(help::device(device))),
                None => Err(Stop::Wrong(Error::Other(format!(
                    "Device '{driver}' not found"
                )))),
            };
        }
        self.devices.push(argument.to_owned());
        Ok(())
    }

    /// `-netdev`.
    pub(super) fn netdev(&mut self, argument: &str) -> Outcome {
        let options = Options::parse(argument, Some("type"))?;
        let mut netdev = NetdevConfig::from_options(options, Source::CommandLine)?;
        argument.clone_into(&mut netdev.text);
        self.config.netdevs.push(netdev);
        Ok(())
    }

    /// `-chardev`.
    pub(super) fn chardev(&mut self, argument: &str) -> Outcome {
        let options = Options::parse(argument, Some("backend"))?;
        let mut chardev = ChardevConfig::from_options(options, Source::CommandLine)?;
        argument.clone_into(&mut chardev.text);
        self.config.chardevs.push(chardev);
        Ok(())
    }

    /// `-object`.
    pub(super) fn object(&mut self, argument: &str) -> Outcome {
        let options = Options::parse(argument, Some("qom-type"))?;
        let mut object = ObjectConfig::from_options(options, Source::CommandLine)?;
        argument.clone_into(&mut object.text);
        self.config.objects.push(object);
        Ok(())
    }

    /// `-drive`.
    pub(super) fn drive(&mut self, argument: &str) -> Outcome {
        let options = Options::parse(argument, Some("file"))?;
        let (mut drive, make_device) = DriveConfig::from_drive(options, self.config.drives.len())?;
        argument.clone_into(&mut drive.text);
        if make_device {
            self.devices
                .push(format!("virtio-blk-pci,drive={}", drive.id));
        }
        self.config.drives.push(drive);
        Ok(())
    }

    /// `-blockdev`.
    pub(super) fn blockdev(&mut self, argument: &str) -> Outcome {
        let options = Options::parse(argument, Some("driver"))?;
        let mut drive = DriveConfig::from_blockdev(options, &self.config.drives)?;
        argument.clone_into(&mut drive.text);
        self.config.drives.push(drive);
        Ok(())
    }

    /// `-global`.
    pub(super) fn global(&mut self, argument: &str) -> Outcome {
        let global = GlobalProperty::from_argument(argument)?;
        if self
            .config
            .machine
            .apply_global(&global.driver, &global.property, &global.value)?
        {
            return Ok(());
        }
        let Some(device) = device_types::find(&global.driver) else {
            return Err(Stop::Wrong(Error::Other(format!(
                "global property of unknown device type '{}'",
                global.driver
            ))));
        };
        let value = Value::from(global.value.as_str());
        config::property::PropertyValues::new(device).set(&global.property, &value)?;
        self.config.globals.push(global);
        Ok(())
    }

    /// `-serial`.
    pub(super) fn serial(&mut self, argument: &str) -> Outcome {
        self.serial_given = true;
        let index = self.serials;
        self.serials = index
            .checked_add(1)
            .ok_or_else(|| Error::other("too many serial ports"))?;
        if let Some(chardev) = self.front_end("-serial", &format!("serial{index}"), argument)? {
            self.config.serials.push(SerialConfig { index, chardev });
        }
        Ok(())
    }

    /// `-monitor`, `-qmp`, `-qmp-pretty`.
    pub(super) fn monitor(&mut self, argument: &str, mode: MonitorMode, pretty: bool) -> Outcome {
        self.monitor_given = true;
        let id = format!("compat_monitor{}", self.qmp_monitors);
        self.qmp_monitors += 1;
        let option = match (mode, pretty) {
            (MonitorMode::Readline, _) => "-monitor",
            (MonitorMode::Control, false) => "-qmp",
            (MonitorMode::Control, true) => "-qmp-pretty",
        };
        if let Some(chardev) = self.front_end(option, &id, argument)? {
            self.config.monitors.push(MonitorConfig {
                id: Some(id),
                chardev,
                mode,
                pretty,
            });
        }
        Ok(())
    }

    /// `-qtest`; the last one counts.
    pub(super) fn qtest(&mut self, argument: &str) -> Outcome {
        if let Some(old) = self.config.qtest.take() {
            self.config.chardevs.retain(|c| c.id != old.chardev);
        }
        let log = QtestLog::default();
        self.config.qtest = self
            .front_end("-qtest", "qtest", argument)?
            .map(|chardev| QtestConfig { chardev, log });
        Ok(())
    }

    /// `-mon`.
    pub(super) fn mon(&mut self, argument: &str) -> Outcome {
        self.monitor_given = true;
        let options = Options::parse(argument, Some("chardev"))?;
        self.config
            .monitors
            .push(MonitorConfig::from_options(options)?);
        Ok(())
    }

    /// The character device behind a short form, made if it is one of its own.
    fn front_end(
        &mut self,
        option: &'static str,
        id: &str,
        argument: &str,
    ) -> Result<Option<String>, Error> {
        match ChardevConfig::from_shorthand(id, argument)? {
            Shorthand::None => Ok(None),
            Shorthand::Existing(id) => Ok(Some(id)),
            Shorthand::Own {
                mut chardev,
                with_monitor,
            } => {
                chardev.option = option;
                let id = chardev.id.clone();
                self.config.chardevs.push(chardev);
                if with_monitor {
                    self.monitor_given = true;
                    self.config.monitors.push(MonitorConfig {
                        id: None,
                        chardev: id.clone(),
                        mode: MonitorMode::Readline,
                        pretty: false,
                    });
                }
                Ok(Some(id))
            }
        }
    }

    /// Ends the parsing: makes the devices, adds what QEMU adds by itself, checks the whole.
    pub(super) fn finish(mut self) -> Result<VmConfig, Stopped> {
        for argument in std::mem::take(&mut self.devices) {
            let wrong = |error| OptionError::new("-device", &super::one_line(&argument), error);
            let options = Options::parse(&argument, Some("driver")).map_err(wrong)?;
            let mut device =
                DeviceConfig::with_globals(options, Source::CommandLine, &self.config.globals)
                    .map_err(wrong)?;
            device.text = super::one_line(&argument);
            self.config.devices.push(device);
        }
        if let Some(qtest) = &mut self.config.qtest {
            qtest.log = std::mem::take(&mut self.qtest_log);
        }
        if self.config.machine.accel.is_empty()
            && let Some(error) = self.accel_elsewhere.take()
        {
            return Err(error.into());
        }
        self.add_defaults()?;
        if !self.memory_given {
            self.memory_of_backend();
        }
        self.check_board()?;
        self.check_daemon()?;
        if self.only_migratable {
            self.check_migratable()?;
        }
        self.config.validate()?;
        Ok(self.config)
    }

    /// A serial port and a monitor, where QEMU makes them without being asked.
    fn add_defaults(&mut self) -> Result<(), OptionError> {
        let has_serial_device = self
            .config
            .devices
            .iter()
            .any(|d| matches!(d.kind, DeviceKind::IsaSerial(_)));
        let board = self.config.machine.kind != MachineKind::None;
        let serial = board && !self.nodefaults && !self.serial_given && !has_serial_device;
        let monitor = !self.nodefaults && !self.monitor_given;
        let result = match (self.config.nographic, serial, monitor) {
            (true, true, true) => self.serial("mon:stdio"),
            (true, true, false) => self.serial("stdio"),
            (true, false, true) => self.monitor("stdio", MonitorMode::Readline, false),
            // A virtual console there is not: what the guest writes goes nowhere, but the port is there.
            (false, true, _) => self.serial("null"),
            _ => Ok(()),
        };
        match result {
            Ok(()) | Err(Stop::Print(_)) => Ok(()),
            Err(Stop::Wrong(error)) => Err(OptionError::new("-nographic", "", error)),
        }
    }

    /// Without `-m` guest RAM is as large as the memory back end.
    fn memory_of_backend(&mut self) {
        let Some(id) = &self.config.machine.memory_backend else {
            return;
        };
        let backend = self.config.objects.iter().find(|object| object.id == *id);
        if let Some(ObjectKind::Memory(memory)) = backend.map(|object| &object.kind) {
            self.config.memory_bytes = memory.size_bytes;
        }
    }

    fn check_board(&self) -> Result<(), OptionError> {
        if self.config.machine.kind != MachineKind::None {
            return Ok(());
        }
        match self.config.devices.first() {
            Some(device) => Err(OptionError::new(
                "-device",
                &device.text,
                Error::other("machine 'none' has no bus for a device"),
            )),
            None => Ok(()),
        }
    }

    fn check_daemon(&self) -> Result<(), OptionError> {
        let stdio = self
            .config
            .chardevs
            .iter()
            .find(|c| matches!(c.backend, ChardevBackend::Stdio { .. }));
        match stdio {
            Some(chardev) if self.config.daemonize => {
                let why = format!(
                    "cannot use stdio ('{}') with -daemonize, which closes it",
                    super::one_line(&chardev.text)
                );
                Err(OptionError::new("-daemonize", "", Error::Other(why)))
            }
            _ => Ok(()),
        }
    }

    fn check_migratable(&self) -> Result<(), OptionError> {
        let bound = |device: &&DeviceConfig| {
            matches!(device.kind, DeviceKind::VfioPci(_)) && device.failover_pair_id.is_none()
        };
        match self.config.devices.iter().find(bound) {
            Some(device) => Err(OptionError::new(
                "-device",
                &device.text,
                Error::other(
                    "disallowing migration blocker (-only-migratable): the device has no standby; give failover_pair_id=",
                ),
            )),
            None => Ok(()),
        }
    }
}
