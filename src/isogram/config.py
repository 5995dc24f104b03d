"""Every setting of a run, validated as a whole. How the defaults were chosen: docs/log.md."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TrunkName = Literal["none", "small", "minilm", "minilm-random"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AlignConfig(_Settings):
    """One-shot alignment: symbols as in docs/method.md."""

    rho: float = Field(0.1, gt=0, description="ridge, relative to the mean eigenvalue of the anchors' Gram matrix")
    rank: int = Field(96, ge=1, description="frame coordinates; at most K - 1 are used")
    power: float = Field(2.0, gt=0, description="weight of a frame direction: consensus eigenvalue to this power")
    clip: float = Field(5.0, gt=0, description="bound on standardised features")
    metric: bool = Field(True, description="learn feature weights by HSIC with the other modalities' Grams")


class ModelConfig(_Settings):
    """The homogeneous trunk and its adapters."""

    trunk: TrunkName = Field("small", description="transformer between projector and frame")
    lora_rank: int = Field(8, ge=1)
    width: int = Field(128, ge=8, description="width of the small trunk; MiniLM has its own")
    layers: int = Field(2, ge=1, description="layers of the small trunk")


class TermWeights(_Settings):
    """Weights of the loss terms in `isogram.objective`; a term of weight 0 is not computed."""

    task: float = Field(0.0, ge=0)
    cka: float = Field(0.0, ge=0)
    frame: float = Field(0.0, ge=0)
    teacher: float = Field(0.0, ge=0)
    prototype: float = Field(0.0, ge=0)


class TrainConfig(_Settings):
    """Federated rounds of local training."""

    device: str = Field("cpu", description="where nodes train: cpu, cuda, or another name that PyTorch knows")
    rounds: int = Field(4, ge=0)
    steps: int = Field(8, ge=1, description="optimiser steps per node and round")
    batch: int = Field(32, ge=1, description="private rows per step")
    anchor_batch: int = Field(128, ge=4, description="anchors per step, drawn anew each step if there are more")
    folds: int = Field(10, ge=2, description="folds of the cross-fitted anchors that training sees")
    lr: float = Field(1e-4, gt=0, description="adapters and output map")
    projector_lr: float = Field(0.0, ge=0, description="a node's own projector; 0 leaves it at the one-shot map")
    frame_update: float = Field(0.0, ge=0, le=1, description="share of the trained Grams in each round's consensus")
    weight_decay: float = Field(0.01, ge=0)
    temperature: float = Field(0.1, gt=0, description="of the frame and task terms' softmax")
    weights: TermWeights = TermWeights(task=0.1, cka=0.1, frame=1.0, teacher=1.0)


class Config(_Settings):
    """A run: data set, anchors, seed, and the three groups of settings."""

    data: str = "tcga-brca"
    anchors: int = Field(100, ge=1, description="K; on `digits` the number per class")
    seed: int = Field(0, ge=0)
    align: AlignConfig = AlignConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
