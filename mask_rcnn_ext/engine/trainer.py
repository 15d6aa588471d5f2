"""The trainer: detectron2's `DefaultTrainer` on CPU and GPU, which resumes a run exactly."""

import inspect
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.description import describe_run
from ..config import complete_config
from ..data.bad_images import build_checked_loader, skips_bad_images
from ..data.copy_paste import CopyPaste
from ..data.loader import TrainLoader, build_sampler, skip_batches
from ..data.mapper import ImageMapper
from ..errors import UserError
from ..evaluation.build import build_evaluator, require_evaluators, require_known_evaluators
from ..evaluation.packed import pack_evaluation
from ..evaluation.validation_loss import build_loss_loader, measure_losses
from ..modeling.building import build_model, explain_config_errors, unwrap
from ..modeling.checks import require_known_classes
from ..modeling.fcis.tta import build_tta_model
from ..modeling.freezing import freeze_parts
from ..modeling.precision import inference_autocast, prepare_model
from ..modeling.speed import prepare_for_inference, require_speed, resolve_speed
from ..modeling.test_time_augmentation import add_tta_results, make_tta_config, require_tta
from ..proposals.file import load_dicts, load_training_dicts, require_proposal_files
from .bad_numbers import CheckGradients, explain_bad_numbers, restore_statistics
from .best_model import BestModel, EarlyStop, require_fitting_selection
from .busy_machine import BusyMachine
from .hooks import Evaluation, LossNormalizer, PreciseBN, RunRecord, ShareSkipped, StepSeed
from .interruption import Interrupted, StopSignals
from .log import hide_told_errors
from .loggers import LoggerWriter, build_loggers, require_loggers
from .loop import build_loop, make_evaluator, make_loader
from .metrics import MetricsWriter, drop_metrics
from .optimizer import build_optimizer, require_fitting_schedule
from .progress import ProgressWriter
from .resuming import get_checkpoint_period, keep_settings, require_same_optimizer
from .weight_average import WeightAverage

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """detectron2's `DefaultTrainer`, with these additions.

    - Mixed precision (`SOLVER.AMP.ENABLED`) and distributed training also work on the CPU.
    - A resumed run gives the same weights as an uninterrupted one: the random numbers and the
      images of an iteration depend on the seed and the iteration only.
    - It evaluates every data set with the metrics of the data set, also with test-time
      augmentation, shows the AP while it trains, and writes `results.json`.
    - Keys of `MASK_RCNN_EXT` add validation losses, averaged weights, a best model, an early end.

    Override `build_mapper`, `build_train_loader`, `build_evaluator` or `build_optimizer` in a
    subclass, and give the subclass to `run_job`. With another loader, resuming is not exact.

    Args:
        cfg: the config of the run, also one from detectron2's `get_cfg()`.

    Raises:
        UserError: see `require_ready`; or the loader or the optimizer of the config cannot be
            built, or `MASK_RCNN_EXT.FREEZE` does not fit the model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, loader and hooks from `cfg`.

        This replaces `DefaultTrainer.__init__`, which gives device ids to a CPU model in several
        processes, and needs CUDA for mixed precision.
        """
        cfg = complete_config(cfg)
        self.require_ready(cfg)
        if cfg.MODEL.LOAD_PROPOSALS:
            for name in cfg.DATASETS.TEST:  # reports a file that does not fit now, not at the end
                self.build_test_loader(cfg, name)
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.step_seed = StepSeed(seed)
        self.run_record = RunRecord(cfg, self.step_seed)
        self.stop_signals = StopSignals()

        frozen = cfg.MASK_RCNN_EXT.FREEZE
        model = freeze_parts(self.build_model(cfg), frozen)
        if frozen:
            logger.info("Weights and batch statistics that stay as they are: %s.", frozen)
        model = prepare_model(cfg, model)
        ema, best = cfg.MASK_RCNN_EXT.EMA, cfg.MASK_RCNN_EXT.BEST_CHECKPOINT
        self.weight_average = WeightAverage(model, ema.DECAY) if ema.ENABLED else None
        optimizer = self.build_optimizer(cfg, model)
        # PyTorch 2.15 renamed the option. The buffers are the same in every process at the start.
        options = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
        ddp_args: dict[str, Any] = {sync: False}
        if torch.device(cfg.MODEL.DEVICE).type != "cuda":
            ddp_args["device_ids"] = None
        if cfg.MODEL.LOAD_PROPOSALS:  # feature maps that only an RPN reads get no gradient
            ddp_args["find_unused_parameters"] = True
        model = create_ddp_model(model, **ddp_args)
        self._trainer = build_loop(cfg, model, make_loader(self, seed), optimizer)
        self._trainer.register_hooks([CheckGradients()])
        with explain_config_errors(cfg, "the schedule"):
            self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            class_names=cfg.MASK_RCNN_EXT.CLASS_NAMES,
            trainer=weakref.proxy(self),
        )
        if comm.is_main_process():
            self.checkpointer.description = describe_run(cfg, seed)
        if self.weight_average:
            self.checkpointer.saved_model = self.weight_average.model
        self.best_model = None
        if best.ENABLED or cfg.MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE:
            self.best_model = self.run_record.best = BestModel(cfg, self.checkpointer)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._loggers: list[LoggerWriter] = []  # the main process has some
        self._earlier_ap: dict[str, float] = {}  # the best of a run that is resumed
        self.register_hooks(self.build_hooks())

    @classmethod
    def require_ready(cls, cfg: CfgNode, *, eval_only: bool = False) -> None:
        """Check, before anything is built, for mistakes that would show after hours of training.

        Raises:
            UserError: a proposal file, or the package of an evaluator or a logger, is missing, or
                `SPEED` is unknown, or the model cannot do `TEST.AUG`; or see the calls below.
        """
        splits = ["TEST"] if eval_only else ["TRAIN", "TEST"]
        parts = ("build_evaluator", "test")
        stock = all(inspect.getattr_static(cls, part) is vars(Trainer)[part] for part in parts)
        require_known_evaluators(cfg, stock=stock)
        require_evaluators([name for split in splits for name in cfg.DATASETS[split]])
        require_proposal_files(cfg, splits)
        require_tta(cfg)
        require_speed(cfg)
        if not eval_only:
            require_fitting_schedule(cfg)
            require_fitting_selection(cfg)
            require_loggers(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :meth:`DefaultTrainer.build_model`; the model is logged to the file only."""
        model: nn.Module = build_model(cfg)
        logger.debug("Model:\n%s", model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int | None = None) -> TrainLoader:
        """Build the loader, which can resume at any batch, from detectron2's config keys.

        Args:
            cfg: the config; `DATALOADER.SAMPLER_TRAIN` is one of `TrainingSampler`,
                `RepeatFactorTrainingSampler`, `RandomSubsetTrainingSampler`.
            seed: the seed of the order of the images, the same on every process. None: `cfg.SEED`,
                or a shared random seed.

        Raises:
            UserError: the sampler is unknown, or `SOLVER.IMS_PER_BATCH` is not a multiple of the
                number of processes, or the model lacks a class of the data.
        """
        cfg = complete_config(cfg)
        if seed is None:
            seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        world = comm.get_world_size()
        if cfg.SOLVER.IMS_PER_BATCH % world or world > cfg.SOLVER.IMS_PER_BATCH:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}: expected a multiple of the "
                f"{world} processes"
            )
        dicts = load_training_dicts(cfg)
        own, ours = (getattr(each.build_mapper, "__func__", None) for each in (cls, Trainer))
        if own is ours:  # another mapper may renumber the classes
            require_known_classes(cfg, dicts)
        return TrainLoader(
            dicts,
            cls.build_mapper(cfg, is_train=True),
            build_sampler(cfg, dicts, seed),
            batch_size=cfg.SOLVER.IMS_PER_BATCH // world,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=seed,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            mix=CopyPaste(share) if (share := cfg.MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE) else None,
            skip_bad=skips_bad_images(cfg),
        )

    @classmethod
    def build_mapper(cls, cfg: CfgNode, *, is_train: bool) -> Callable[[dict], Any]:
        """Return a function from a record of a data set to an input of the model.

        This is `ImageMapper`. Override it for other kinds of images; training and evaluation both
        use it.
        """
        return ImageMapper(cfg, is_train=is_train)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer, see `engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    def resume_or_load(self, resume: bool = True) -> None:
        """See :meth:`DefaultTrainer.resume_or_load`; it also moves the loader to the next batch."""
        seed = self.step_seed.seed
        super().resume_or_load(resume)
        if self.step_seed.seed != seed:  # this run drew a seed, and the checkpoint has another
            self._trainer.reset_data_loader(lambda: make_loader(self, self.step_seed.seed))
            if description := self.checkpointer.description:
                description["provenance"]["seed"] = self.step_seed.seed
        skip_batches(self._trainer.data_loader, self.start_iter)
        if self.start_iter >= self.max_iter:
            logger.warning(
                "The run is at its end, SOLVER.MAX_ITER %d. Raise it to train on.", self.max_iter
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of the run that is resumed, but the settings of this run's config.

        Raises:
            UserError: the state is of another optimizer, or of other parameters.
        """
        require_same_optimizer(state_dict["_trainer"]["optimizer"], self.optimizer)
        states = dict(state_dict.get("hooks", {}))
        if self.weight_average is None and (average := states.pop("WeightAverage", None)):
            # The checkpoint has the average as the model.
            logger.info("MASK_RCNN_EXT.EMA is off now: the run continues with its trained weights.")
            self.checkpointer.model.load_state_dict(average["weights"])
            state_dict = {**state_dict, "hooks": states}
        with keep_settings(self.optimizer, self.scheduler):
            super().load_state_dict(state_dict)
        if self.cfg.SEED >= 0:
            self.step_seed.seed = self.cfg.SEED

    def train(self) -> Any:
        """See :meth:`DefaultTrainer.train`; a `UserError` is not logged with a traceback.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; a checkpoint is saved.
        """
        if comm.is_main_process() and self.start_iter:
            self._earlier_ap.update(drop_metrics(self._metrics_file, self.start_iter))
        for writer in self._loggers:
            writer.start(resume=self.start_iter > 0)
        try:
            with hide_told_errors(), self.stop_signals.take_signals():
                try:
                    return super().train()
                except Interrupted as error:
                    error.checkpoint = self._save_interrupted()
                    if error.in_all:  # the end of one process would end the one that still saves
                        comm.synchronize()
                    raise
                except EarlyStop:
                    if comm.is_main_process():
                        verify_results(self.cfg, self._last_eval_results)
        finally:
            self._trainer._data_loader_iter_obj = None  # ends the workers that load data

    def run_step(self) -> None:
        """See :meth:`DefaultTrainer.run_step`.

        Raises:
            UserError: a loss or a gradient is NaN or infinite, and the weights are still finite.
        """
        try:
            with restore_statistics(self.model):
                super().run_step()
        except FloatingPointError as error:
            raise explain_bad_numbers(self, error) from error

    def _save_interrupted(self) -> str:
        """Save the state after the last whole step unless that was done; return the path."""
        name = f"model_{self.iter:07d}"
        path = os.path.join(self.cfg.OUTPUT_DIR, f"{name}.pth")
        last: str = self.checkpointer.get_checkpoint_file()
        if self.iter + 1 >= self.max_iter or last == path:  # at the end it was saved
            return last
        if comm.is_main_process():
            self.checkpointer.save(name, iteration=self.iter)
        return path

    def build_hooks(self) -> list[HookBase | None]:
        """Return detectron2's hooks, with `StepSeed` among the first, `RunRecord` as the last."""
        busy = BusyMachine.build(self.cfg, self._trainer)
        found: list[HookBase | None] = [busy, self.step_seed, self.weight_average, LossNormalizer()]
        if skips_bad_images(self.cfg) and comm.get_world_size() > 1:
            found.append(ShareSkipped())  # before the checkpoints
        for hook in super().build_hooks():
            if isinstance(hook, hooks.PeriodicCheckpointer):
                hook.period = get_checkpoint_period(self.cfg)
            if isinstance(hook, hooks.PreciseBN):
                hook = PreciseBN(hook)
            if isinstance(hook, hooks.EvalHook):
                found.append(self.stop_signals)
                hook = Evaluation(self.run_record, self.best_model)
            found.append(hook)
        return [*found, self.best_model, self.run_record]

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose weights are evaluated and saved: an average with `MASK_RCNN_EXT.EMA`."""
        return self.weight_average.model if self.weight_average else self.model

    @property
    def _metrics_file(self) -> str:
        return os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")

    def build_writers(self) -> list[EventWriter]:
        """Return the progress display, the writer of `metrics.json`, and the loggers."""
        loggers = build_loggers(self.cfg)
        self._loggers = [writer for writer in loggers if isinstance(writer, LoggerWriter)]
        progress = ProgressWriter(self.max_iter, self._earlier_ap)
        return [progress, MetricsWriter(self._metrics_file), *loggers]

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Return the evaluator of a data set, see `evaluation.build.build_evaluator`.

        It writes the predictions to `output_folder`, by default `OUTPUT_DIR/inference`.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """See :meth:`DefaultTrainer.build_test_loader`."""
        cfg = complete_config(cfg)
        dicts = load_dicts(cfg, "TEST", [dataset_name], filter_empty=False)
        return build_checked_loader(cfg, dicts, cls.build_mapper(cfg, is_train=False))

    @classmethod
    def add_losses(cls, cfg: CfgNode, model: nn.Module, results: OrderedDict) -> None:
        """Add the losses of each test set to its results, as the task "validation_loss"."""
        model = unwrap(model)
        for name in cfg.DATASETS.TEST:
            dicts = load_dicts(cfg, "TEST", [name], filter_empty=False)
            loader = build_loss_loader(cfg, dicts, cls.build_mapper(cfg, is_train=False))
            with inference_autocast(cfg):
                losses = measure_losses(model, loader)
            if losses:  # in the first process
                tasks = results if len(cfg.DATASETS.TEST) == 1 else results[name]
                tasks["validation_loss"] = losses

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> OrderedDict:
        """See :meth:`DefaultTrainer.test`; this also follows `MASK_RCNN_EXT.AMP_INFERENCE`.

        At a level of `MASK_RCNN_EXT.SPEED` other than "exact", a copy of the model is evaluated.
        Evaluators that can read `PackedMasks` get them; see `evaluation.packed`.
        """
        if comm.get_world_size() > 1:
            # The statistics of batch normalisation differ between the processes. The checkpoint has
            # the statistics of the first process, so all processes evaluate with them.
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)
        model, cfg = prepare_for_inference(cfg, model), resolve_speed(cfg)
        trainer, model, evaluators = pack_evaluation(cls, model, evaluators)
        with inference_autocast(cfg):
            results: OrderedDict = DefaultTrainer.test.__func__(trainer, cfg, model, evaluators)
        return results

    @classmethod
    def test_all(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict:
        """Return the results of `test` and, if `TEST.AUG.ENABLED` is set, of `test_with_TTA`."""
        results = cls.test(cfg, model)
        if not cfg.TEST.AUG.ENABLED:
            return results
        augmented = cls.test_with_TTA(cfg, model)
        return add_tta_results(results, augmented, num_datasets=len(cfg.DATASETS.TEST))

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict:
        """Evaluate with the augmentations of `TEST.AUG`; write predictions to `inference_TTA/`."""
        logger.info("Evaluating with test-time augmentation.")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [make_evaluator(cls, cfg, name, folder) for name in cfg.DATASETS.TEST]
        model = build_tta_model(cfg, prepare_for_inference(cfg, model))
        return cls.test(make_tta_config(cfg), model, evaluators)
