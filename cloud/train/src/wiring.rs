//! A plan spelled out: every convolution, and which of them share their channels.
//!
//! A *space* is a set of channels that exists once however many layers write or read it: what goes around a residual
//! stage is summed channel by channel with what goes through, and a depthwise convolution gives the channels that it
//! takes. A channel is taken out of a space everywhere, or not at all (the dependency groups of Fang et al., "DepGraph:
//! Towards Any Structural Pruning", arXiv:2301.12900).

use crate::export::INPUT;
use crate::plan::{NetworkPlan, Stage};

/// A convolution, its normalisation and perhaps a rectifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitPlan {
    /// Name of the layer in the file.
    pub(crate) name: String,
    /// Output channels, input channels a group, rows and columns of the kernel.
    pub(crate) dims: [usize; 4],
    pub(crate) stride: usize,
    pub(crate) groups: usize,
    /// Whether each channel is convolved on its own.
    pub(crate) depthwise: bool,
    pub(crate) rectified: bool,
    /// The space it reads.
    pub(crate) from: usize,
    /// The space it writes.
    pub(crate) to: usize,
    /// Rows and columns of what it gives.
    pub(crate) size: (usize, usize),
}

impl UnitPlan {
    pub(crate) fn outputs(&self) -> usize {
        self.dims[0]
    }

    /// Pixels of a plane that it gives.
    pub(crate) fn plane(&self) -> usize {
        self.size.0 * self.size.1
    }

    /// Weights, without biases.
    pub(crate) fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Name of the value that it gives.
    pub(crate) fn value(&self) -> String {
        format!("{}.{}", self.name, if self.rectified { "out" } else { "sum" })
    }
}

/// All convolutions of a plan, in the order in which they run: through a residual stage first, then around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wiring {
    /// Channels of each space; the first is that of the images.
    pub(crate) widths: Vec<usize>,
    pub(crate) units: Vec<UnitPlan>,
    /// The space that the classes are read from.
    pub(crate) last: usize,
    classes: usize,
    /// Names of the values, in order: the images, what each unit gives, and each sum of a residual stage.
    pub(crate) values: Vec<String>,
}

impl Wiring {
    pub(crate) fn new(plan: &NetworkPlan) -> Self {
        let mut wiring = Self {
            widths: vec![plan.channels],
            units: Vec::new(),
            last: 0,
            classes: plan.classes,
            values: vec![INPUT.into()],
        };
        let mut size = (plan.height, plan.width);
        for (place, stage) in plan.stages.iter().enumerate() {
            let name = if place == 0 { "stem".to_owned() } else { format!("block{place}") };
            let from = wiring.last;
            wiring.last = match *stage {
                Stage::Conv { width, kernel, stride } => {
                    let to = wiring.space(width);
                    wiring.full(name, [from, to], [kernel, stride], true, &mut size);
                    to
                }
                Stage::Separable { width, stride } => {
                    wiring.depthwise(format!("{name}.depthwise"), from, stride, &mut size);
                    let to = wiring.space(width);
                    wiring.full(format!("{name}.pointwise"), [from, to], [1, 1], true, &mut size);
                    to
                }
                Stage::Residual { inner, width, stride, projection } => {
                    let mut around = size;
                    let between = wiring.space(inner);
                    let to = if projection { wiring.space(width) } else { from };
                    wiring.full(format!("{name}.first"), [from, between], [3, stride], true, &mut size);
                    wiring.full(format!("{name}.second"), [between, to], [3, 1], false, &mut size);
                    if projection {
                        wiring.full(format!("{name}.skip"), [from, to], [1, stride], false, &mut around);
                    }
                    wiring.values.push(format!("{name}.out"));
                    to
                }
            };
        }
        wiring
    }

    fn space(&mut self, width: usize) -> usize {
        self.widths.push(width);
        self.widths.len() - 1
    }

    fn full(
        &mut self,
        name: String,
        [from, to]: [usize; 2],
        [kernel, stride]: [usize; 2],
        rectified: bool,
        size: &mut (usize, usize),
    ) {
        let dims = [self.widths[to], self.widths[from], kernel, kernel];
        *size = (size.0.div_ceil(stride), size.1.div_ceil(stride));
        let unit =
            UnitPlan { name, dims, stride, groups: 1, depthwise: false, rectified, from, to, size: *size };
        self.values.push(unit.value());
        self.units.push(unit);
    }

    fn depthwise(&mut self, name: String, space: usize, stride: usize, size: &mut (usize, usize)) {
        let channels = self.widths[space];
        *size = (size.0.div_ceil(stride), size.1.div_ceil(stride));
        let unit = UnitPlan {
            name,
            dims: [channels, 1, 3, 3],
            stride,
            groups: channels,
            depthwise: true,
            rectified: true,
            from: space,
            to: space,
            size: *size,
        };
        self.values.push(unit.value());
        self.units.push(unit);
    }

    /// Weights of the linear layer.
    pub(crate) fn head(&self) -> usize {
        self.widths[self.last] * self.classes
    }

    /// Multiplications of one prediction.
    pub(crate) fn macs(&self) -> u64 {
        let units = self.units.iter().map(|unit| (unit.elements() * unit.plane()) as u64);
        units.sum::<u64>() + self.head() as u64
    }

    /// Numbers of the exported network.
    pub(crate) fn parameters(&self) -> u64 {
        let units = self.units.iter().map(|unit| (unit.elements() + unit.outputs()) as u64);
        units.sum::<u64>() + (self.head() + self.classes) as u64
    }
}
