"""What goes into modules, against loops written by hand: images, sequences, integers, inputs, loaders."""

from __future__ import annotations

import copy
import pickle
import zlib

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score, train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from torch_logreg import Inputs, ModuleSpec, TorchLogisticClassifier

N, BATCH, EPOCHS, SEED, RATE = 53, 8, 4, 3, 0.2  # the last batch has 5 rows
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(N, 2, 4, 4))
SEQUENCES = RNG.normal(size=(N, 5, 3))
WORDS = RNG.integers(0, 20, size=(N, 6))
COLUMNS = RNG.normal(size=(N, 3))
Z = IMAGES.mean(axis=(1, 2, 3)) * 4 + COLUMNS[:, 0] + (WORDS[:, 0] > 9) + 0.5 * RNG.normal(size=N)
Y = np.digitize(Z, np.quantile(Z, [0.5]))
THREE = np.digitize(Z, np.quantile(Z, [0.3, 0.6]))
WEIGHTS = RNG.uniform(0.2, 2.0, size=N)


class Convolution(nn.Module):
    def __init__(self, n_channels=2, n_outputs=1):
        super().__init__()
        self.filters, self.last = nn.Conv2d(n_channels, 3, 2), nn.Linear(27, n_outputs)

    def forward(self, X):
        return self.last(torch.tanh(self.filters(X)).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, n_outputs=1):
        super().__init__()
        self.steps, self.last = nn.GRU(3, 4, batch_first=True), nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.last(self.steps(X)[0][:, -1])


class Words(nn.Module):
    def __init__(self, n_outputs=1):
        super().__init__()
        self.words, self.last = nn.EmbeddingBag(20, 4), nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.last(self.words(X))


class Several(nn.Module):
    def __init__(self, n_outputs=1):
        super().__init__()
        self.image, self.words = Convolution(2, n_outputs), Words(n_outputs)
        self.columns = nn.Linear(3, n_outputs)

    def forward(self, image, words, columns):
        return self.image(image) + self.words(words) + self.columns(columns)


def several() -> Inputs:
    return Inputs(words=WORDS, columns=COLUMNS, image=IMAGES)


KINDS = {
    "four dimensions": (Convolution, IMAGES),
    "three dimensions": (Recurrent, SEQUENCES),
    "integers": (Words, WORDS),
    "several inputs": (Several, several()),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind, n_outputs=1):
    build = KINDS[kind][0]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return build(n_outputs=n_outputs)


def tensors_of(X):
    """By name, or as the one argument."""
    if isinstance(X, Inputs):
        return {name: torch.as_tensor(X[name]) for name in X.keys()}
    return torch.as_tensor(X)


def called(module, X, rows):
    return module(**{n: x[rows] for n, x in X.items()}) if isinstance(X, dict) else module(X[rows])


def model(module, **params):
    settings = {"learning_rate": RATE, "max_iter": EPOCHS, "tol": None, "random_state": SEED, "C": 2.0}
    return TorchLogisticClassifier(module=module, **{**settings, **params})


def of_penalty(module):
    named = list(module.named_parameters())
    return [p for n, p in named if "bias" not in n], [p for n, p in named if "bias" in n]


def losses(z, y):
    if z.shape[1] > 1:
        return F.cross_entropy(z, y, reduction="none")
    return F.binary_cross_entropy_with_logits(z[:, 0], y.to(z.dtype), reduction="none")


def loop(module, X, y, s=None, C=2.0):
    """F before each epoch, and the trained module, of a loop in torch alone."""
    X, y = tensors_of(X), torch.as_tensor(y)
    s = torch.ones(N) if s is None else torch.as_tensor(s)
    decay = 1 / (C * float(s.sum()))
    kernels, biases = of_penalty(module)
    optimizer = torch.optim.SGD([{"params": kernels, "weight_decay": decay}, {"params": biases}], lr=RATE)
    generator, values = torch.Generator().manual_seed(SEED), []
    for _ in range(EPOCHS):
        with torch.no_grad():
            penalty = decay / 2 * sum(p.square().sum() for p in kernels)
            every = slice(None)
            values.append(float((s * losses(called(module, X, every), y)).sum() / s.sum() + penalty))
        for rows in torch.randperm(N, generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss = (s[rows] * losses(called(module, X, rows), y[rows])).sum() / BATCH
            (loss * N / s.sum()).backward()
            optimizer.step()
    return values, module


def assert_predicts_like(fitted, module, X):
    module.eval()
    with torch.no_grad():
        z = called(module, tensors_of(X), slice(None))
        expected = torch.softmax(z, dim=1)[:, 1] if z.shape[1] > 1 else torch.sigmoid(z[:, 0])
    assert_allclose(fitted.predict_proba(X)[:, 1], expected, rtol=0, atol=1e-6)


# ---- in memory ----


@kinds
@pytest.mark.parametrize("case", ["two classes", "three classes", "weights"])
def test_every_kind_is_trained_like_by_a_loop_epoch_by_epoch(kind, case):
    X, y = KINDS[kind][1], THREE if case == "three classes" else Y
    module = made(kind, 3 if case == "three classes" else 1)
    dtype = torch.float32 if kind == "integers" else torch.float64
    s = WEIGHTS if case == "weights" else None
    expected, trained = loop(copy.deepcopy(module).to(dtype), X, y, s)
    fitted = model(module, batch_size=BATCH).fit(X, y, s)
    assert_allclose(fitted.loss_curve_, expected, rtol=0, atol=1e-6)
    assert_predicts_like(fitted, trained, X)
    assert next(fitted.module_.parameters()).dtype == dtype
    assert fitted.n_features_in_ == {"four dimensions": 2, "three dimensions": 5, "integers": 6}.get(kind, 11)


@kinds
@pytest.mark.parametrize("settings", [{"batch_size": None}, {"learning_rate": "auto"}, {"max_iter": 0}])
def test_every_kind_is_trained_in_every_way(kind, settings):
    fitted = model(made(kind), **settings).fit(KINDS[kind][1], Y)
    probabilities = fitted.predict_proba(KINDS[kind][1])
    assert np.isfinite(probabilities).all() and len(fitted.loss_curve_) == settings.get("max_iter", EPOCHS)
    assert fitted.objective_ > 0


def test_float32_and_tensors_of_16_bits_are_computed_with_in_float32():
    exact = np.round(IMAGES * 8) / 8
    expected = model(made("four dimensions")).fit(exact.astype(np.float32), Y)
    assert (expected.input_dtype_, expected.input_shape_) == ("float32", (2, 4, 4))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows = torch.tensor(exact, dtype=dtype)
        for X in (rows, Inputs(X=rows)):
            fitted = model(made("four dimensions")).fit(X, Y)
            assert next(fitted.module_.parameters()).dtype == torch.float32
            assert_allclose(fitted.predict_proba(X), expected.predict_proba(exact), rtol=0, atol=1e-6)
    assert fitted.input_dtype_ == {"X": "float32"}


@kinds
def test_parts_of_the_rows_give_what_all_give(kind, limits):
    X = KINDS[kind][1]
    fitted = model(made(kind)).fit(X, Y)
    limits(predicted_rows=7, dense_numbers=100, chunk_numbers=100)
    again = model(made(kind)).fit(X, Y)
    assert_allclose(again.loss_curve_, fitted.loss_curve_, rtol=1e-6)
    assert_allclose(again.predict_proba(X), fitted.predict_proba(X), rtol=1e-5)


@pytest.mark.parametrize("settings", [{"batch_size": BATCH}, {"learning_rate": "auto"}, {"batch_size": None}])
def test_layers_that_work_in_place_do_not_write_to_any_input(settings):
    class InPlace(Several):
        def forward(self, image, words, columns):
            words.clamp_(min=1)
            return super().forward(image.mul_(0.5), words, columns.tanh_())

    X = Inputs(words=torch.as_tensor(WORDS), columns=COLUMNS.copy(), image=torch.as_tensor(IMAGES))
    before = copy.deepcopy(X)
    fitted = model(InPlace(), **settings).fit(X, Y)
    fitted.predict_proba(X)
    for name in X.keys():
        assert_array_equal(X[name], before[name])


@kinds
def test_copies_and_pickles_predict_the_same_and_clones_are_fitted_to_the_same(kind):
    X = KINDS[kind][1]
    fitted = model(made(kind)).fit(X, Y)
    right = fitted.predict_proba(X)
    for again in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted)), clone(fitted).fit(X, Y)):
        assert_array_equal(again.predict_proba(X), right)
        assert (again.input_dtype_, again.input_shape_) == (fitted.input_dtype_, fitted.input_shape_)
    again = clone(fitted).set_params(warm_start=True).fit(X, Y).fit(X, Y)
    assert again.loss_curve_[-1] < fitted.loss_curve_[-1]


@kinds
def test_early_stopping_keeps_rows_of_every_kind_aside(kind):
    X = KINDS[kind][1]
    fitted = model(made(kind), early_stopping=True, validation_fraction=0.3, max_iter=10).fit(X, Y)
    assert len(fitted.validation_scores_) == fitted.n_iter_[0]
    rows = np.arange(N)
    train, kept = train_test_split(rows, test_size=0.3, stratify=Y, random_state=SEED)
    trained = model(made(kind), max_iter=int(np.argmax(fitted.validation_scores_)) + 1)
    trained.fit(X[np.sort(train)], Y[np.sort(train)])
    assert_allclose(trained.predict_proba(X), fitted.predict_proba(X), rtol=1e-5)
    assert max(fitted.validation_scores_) == trained.score(X[kept], Y[kept])


def test_a_module_whose_dtype_the_user_changes_predicts_in_it():
    for kind in ("four dimensions", "several inputs", "integers"):
        fitted = model(made(kind)).fit(KINDS[kind][1], Y)
        right = fitted.predict_proba(KINDS[kind][1])
        fitted.module_.float()
        assert_allclose(fitted.predict_proba(KINDS[kind][1]), right, rtol=1e-4)
        assert fitted.predict_proba(KINDS[kind][1]).dtype == np.float32


def test_class_weights_count_like_weights_of_rows():
    X, weights = several(), np.where(Y, 3.0, 0.5)
    by_class = model(made("several inputs"), class_weight={0: 0.5, 1: 3.0}).fit(X, Y)
    by_row = model(made("several inputs")).fit(X, Y, weights)
    assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))


def test_builders_are_told_the_features_of_each_input():
    told = []

    def build(n_features, n_outputs):
        told.append((n_features, n_outputs))
        return Several(n_outputs)

    X = Inputs(image=IMAGES, words=WORDS, columns=COLUMNS)
    model(build).fit(X, Y), model(ModuleSpec(build)).fit(X, THREE)
    features = {"image": 2, "words": 6, "columns": 3}
    assert told == [(features, 1), (features, 3)]
    model(lambda d, k: told.append(d) or Convolution(d, k)).fit(IMAGES, Y)

    class OfOne(nn.Module):
        def __init__(self, n_features, n_outputs):
            super().__init__()
            told.append(n_features)
            self.layer = nn.Linear(1, n_outputs)

        def forward(self, age):
            return self.layer(age[:, None])

    fitted = model(ModuleSpec(OfOne)).fit(Inputs(age=COLUMNS[:, 0]), Y)
    assert told[2:] == [2, {"age": 1}] and fitted.n_features_in_ == 1


def test_a_fit_of_another_kind_leaves_nothing_of_the_one_before():
    estimator = model(Several()).fit(several(), Y)
    assert estimator.input_dtype_ == {"words": "int64", "columns": "float64", "image": "float64"}
    estimator.set_params(module=nn.Linear(3, 1)).fit(COLUMNS, Y)
    assert (estimator.input_dtype_, estimator.input_shape_) == ("float64", (3,))
    estimator.set_params(module=None, learning_rate="auto").fit(COLUMNS, Y)
    assert not hasattr(estimator, "input_dtype_") and not hasattr(estimator, "input_shape_")


# ---- searches ----


def small_net(n_features, n_outputs, channels=2):
    return nn.Sequential(
        nn.Conv2d(n_features, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * channels, n_outputs)
    )


def bag(n_features, n_outputs, width=2):
    return nn.Sequential(nn.EmbeddingBag(64, width), nn.Linear(width, n_outputs))


class ImageAndWords(nn.Module):
    def __init__(self, n_features, n_outputs, width=2):
        super().__init__()
        self.image = small_net(n_features["image"], width)
        self.words = nn.EmbeddingBag(64, width)
        self.last = nn.Linear(2 * width, n_outputs)

    def forward(self, image, words):
        return self.last(torch.cat([self.image(image), self.words(words)], dim=1))


def digits(n):
    X, y = load_digits(return_X_y=True)
    return (X[:n].reshape(-1, 1, 8, 8) / 16).astype(np.float32), y[:n]


def hashed(texts):
    """Each word as a number below 64, as HashingVectorizer finds columns."""
    return np.array([[zlib.crc32(word.encode()) % 64 for word in text.split()] for text in texts])


def reviews(n):
    rng, words = np.random.default_rng(0), {0: ["dull", "slow", "poor"], 1: ["fine", "warm", "bright"]}
    y = np.arange(n) % 2
    return hashed(
        [f"the film was {rng.choice(words[label])} and {rng.choice(words[label])}" for label in y]
    ), y


def search(spec, X, y, **params):
    settings = {"max_iter": 25, "batch_size": 16, "C": np.inf, **params}
    grid = {"module__" + name: [2, 4] for name in spec.get_params() if name != "build"}
    grid["learning_rate"] = [0.05, 0.5]
    return GridSearchCV(model(spec, **settings), grid, cv=2).fit(X, y)


def test_a_convolution_of_digits_is_searched_over():
    found = search(ModuleSpec(small_net), *digits(200), max_iter=12)
    assert found.best_score_ > 0.8 and len(found.cv_results_["params"]) == 4
    assert found.n_features_in_ == 1


def test_an_embedding_of_hashed_text_is_searched_over():
    X, y = reviews(80)
    found = search(ModuleSpec(bag), X, y)
    assert found.best_score_ > 0.95 and found.best_estimator_.input_dtype_ == "int64"
    assert found.predict(hashed(["the film was bright and fine", "the film was poor and dull"])).tolist() == [
        1,
        0,
    ]


def test_a_module_of_two_inputs_is_searched_over_and_cross_validated():
    images, y = digits(120)
    words, labels = reviews(120)
    X, y = Inputs(image=images, words=words), 2 * (y > 4) + labels
    found = search(ModuleSpec(ImageAndWords), X, y, max_iter=6)
    assert len(found.cv_results_["params"]) == 4 and found.best_score_ > 0.4
    assert found.predict(X[:5]).shape == (5,)
    best = clone(found.best_estimator_)
    assert cross_val_predict(best, X, y, cv=2, method="predict_proba").shape == (120, 4)
    assert len(cross_val_score(best, X, y, cv=2)) == 2


# ---- Datasets: what arrays give, but that F is that of the batches ----


class Items(Dataset):
    """Rows of arrays or `Inputs`, which it counts as it gives them."""

    def __init__(self, X, y, *weights):
        self.X, self.rest, self.given = X, (y, *weights), 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        self.given += 1
        X = {n: self.X[n][i] for n in self.X.keys()} if isinstance(self.X, Inputs) else self.X[i]
        return X, *(each[i] for each in self.rest)


@kinds
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": BATCH},
        {"batch_size": None},
        {"learning_rate": "auto", "batch_size": BATCH},
        {"class_weight": "balanced"},
        {"early_stopping": True, "validation_fraction": 0.3},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_a_dataset_is_fitted_and_predicted_like_its_rows_in_memory(kind, settings):
    X = KINDS[kind][1]
    expected = model(made(kind), **settings).fit(X, Y, WEIGHTS)
    dataset = Items(X, Y, WEIGHTS)
    fitted = model(made(kind), **settings).fit(dataset)
    assert_allclose(fitted.predict_proba(X), expected.predict_proba(X), rtol=1e-6)
    assert_allclose(fitted.objective_, expected.objective_, rtol=1e-6)
    assert fitted.n_iter_ == expected.n_iter_ and fitted.classes_.tolist() == [0, 1]
    assert (fitted.input_dtype_, fitted.input_shape_) == (expected.input_dtype_, expected.input_shape_)
    assert fitted.n_features_in_ == expected.n_features_in_
    if settings.get("early_stopping"):
        assert_allclose(fitted.validation_scores_, expected.validation_scores_)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        right = getattr(fitted, method)(X)
        for given in (dataset, DataLoader(dataset, 10), DataLoader(Items(X, Y), 7)):
            assert_allclose(getattr(fitted, method)(given), right, rtol=1e-5, atol=1e-6)
    assert fitted.score(dataset) == pytest.approx(fitted.score(X, Y, WEIGHTS))
    assert fitted.score(Items(X, Y)) == pytest.approx(fitted.score(X, Y))


def test_labels_of_a_dataset_may_be_words():
    names = np.array(["no", "yes"])[Y].tolist()
    fitted = model(made("integers")).fit(Items(WORDS, names))
    expected = model(made("integers")).fit(WORDS, names)
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert_array_equal(fitted.predict(WORDS), expected.predict(WORDS))
    assert fitted.score(Items(WORDS, names)) == expected.score(WORDS, names)


@pytest.mark.parametrize("classes", [None, [1, 0]])
def test_a_dataset_is_read_once_an_epoch_once_at_the_end_and_once_for_labels_nobody_gave(classes):
    dataset = Items(IMAGES, Y)
    fitted = model(made("four dimensions"), batch_size=BATCH).fit(dataset, classes=classes)
    assert fitted.classes_.tolist() == [0, 1] and fitted.history_.rows_read.iloc[-1] == EPOCHS * N
    # Without the labels at hand, one batch is looked at to begin with: all of these few rows.
    assert dataset.given == N * (EPOCHS + 2)


def test_classes_that_no_row_has_are_kept():
    fitted = model(made("integers", 3)).fit(Items(WORDS, Y), classes=[0, 1, 2])
    assert fitted.classes_.tolist() == [0, 1, 2] and fitted.predict_proba(WORDS).shape == (N, 3)


# ---- DataLoaders ----


def loader_of(X=IMAGES, y=Y, *weights, seed=SEED, **settings):
    settings = {"batch_size": BATCH, "shuffle": True, **settings}
    return DataLoader(Items(X, y, *weights), generator=torch.Generator().manual_seed(seed), **settings)


def loader_loop(module, loader, s_of_class, n_rows, weight_sum, C=2.0):
    """Of each epoch the mean of its batches, and the trained module, of a loop in torch alone."""
    decay = 1 / (C * weight_sum)
    kernels, biases = of_penalty(module)
    optimizer = torch.optim.SGD([{"params": kernels, "weight_decay": decay}, {"params": biases}], lr=RATE)
    values = []
    for _ in range(EPOCHS):
        total, weight, penalties = 0.0, 0.0, []
        for X, y, *rest in loader:
            s = (rest[0] if rest else torch.ones(len(y))) * s_of_class[y]
            optimizer.zero_grad()
            of_rows = (s * losses(module(**X) if isinstance(X, dict) else module(X), y)).sum()
            penalties.append(decay / 2 * float(sum(p.detach().square().sum() for p in kernels)))
            (of_rows / loader.batch_size * n_rows / weight_sum).backward()
            optimizer.step()
            total, weight = total + float(of_rows.detach()), weight + float(s.sum())
        values.append(total / weight + np.mean(penalties))
    return values, module


@kinds
@pytest.mark.parametrize("case", ["plain", "weights", "balanced", "last batch dropped", "classes given"])
def test_a_loader_is_trained_on_like_by_a_loop_in_its_own_order(kind, case):
    X = KINDS[kind][1]
    given = [WEIGHTS] if case in ("weights", "balanced") else []
    settings = {"drop_last": True} if case == "last batch dropped" else {}
    module, dtype = made(kind), torch.float32 if kind == "integers" else torch.float64
    ours, theirs = loader_of(X, Y, *given, **settings), loader_of(X, Y, *given, **settings)
    s, n_rows = WEIGHTS if given else np.ones(N), N - N % BATCH if settings else N
    of_class = np.ones(2)
    if case == "balanced":
        of_class = s.sum() / (2 * np.bincount(Y, s))
    weight_sum = float((s * of_class[Y]).sum()) if not settings else float(n_rows)
    expected, trained = loader_loop(
        copy.deepcopy(module).to(dtype), theirs, torch.as_tensor(of_class), n_rows, weight_sum
    )
    fitted = model(module, class_weight="balanced" if case == "balanced" else None)
    fitted.fit(ours, classes=[0, 1] if case == "classes given" else None)
    assert_allclose(fitted.loss_curve_, expected, rtol=0, atol=1e-6)
    assert_predicts_like(fitted, trained, X)
    assert torch.equal(ours.generator.get_state(), theirs.generator.get_state())  # no pass beside the epochs
    assert (fitted.stop_reason_, fitted.converged_, fitted.solver_) == ("max_iter", False, "sgd")
    assert np.isnan(fitted.history_.gradient_norm).all() and fitted.history_.rows_read.diff()[1] == n_rows


def test_the_objective_of_a_loader_is_that_of_all_rows_at_the_end():
    fitted = model(made("four dimensions")).fit(loader_of(IMAGES, Y, WEIGHTS))
    probabilities = fitted.predict_proba(IMAGES)[np.arange(N), Y]
    kernels, _ = of_penalty(fitted.module_)
    penalty = sum(float(p.detach().square().sum()) for p in kernels) / 2
    assert_allclose(fitted.objective_, -2.0 * WEIGHTS @ np.log(probabilities) + penalty, rtol=1e-9)


def test_an_ordinary_loop_over_whole_batches_needs_no_weights_to_be_the_same():
    module, n = made("four dimensions"), 48
    plain = copy.deepcopy(module).double()
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)
    loader = loader_of(IMAGES[:n], Y[:n])
    for _ in range(EPOCHS):
        for X, y in loader:
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(plain(X)[:, 0], y.double()).backward()
            optimizer.step()
    fitted = model(module, C=np.inf).fit(loader_of(IMAGES[:n], Y[:n]))
    assert_predicts_like(fitted, plain, IMAGES)


# ---- rows to validate with ----

VALIDATING = {
    "accuracy": {},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 8},
    "loss": {"early_stopping": True, "scoring": "loss", "max_iter": 8},
}


@kinds
@pytest.mark.parametrize("way", VALIDATING)
def test_rows_to_validate_with_may_be_loaded_in_any_order(kind, way):
    X, train, kept = KINDS[kind][1], slice(0, 40), slice(40, N)
    settings = VALIDATING[way]
    given = {"X_val": X[kept], "y_val": Y[kept], "sample_weight_val": WEIGHTS[kept]}
    expected = model(made(kind), **settings).fit(X[train], Y[train], **given)
    dataset = Items(X[kept], Y[kept], WEIGHTS[kept])
    order = torch.Generator().manual_seed(1)
    for loaded in (dataset, DataLoader(dataset, 5, shuffle=True, generator=order)):
        state = order.get_state()
        fitted = model(made(kind), **settings).fit(X[train], Y[train], X_val=loaded)
        assert_allclose(fitted.validation_scores_, expected.validation_scores_, rtol=1e-6)
        assert_allclose(fitted.predict_proba(X), expected.predict_proba(X), rtol=1e-6)
        assert torch.equal(order.get_state(), state)


@pytest.mark.parametrize("way", VALIDATING)
def test_a_loader_is_trained_on_beside_rows_of_another_that_shares_its_generator(way):
    settings = VALIDATING[way]
    train, kept = Items(IMAGES[:40], Y[:40]), Items(IMAGES[40:], Y[40:])
    plain = loader_of(IMAGES[:40], Y[:40])
    expected = model(made("four dimensions"), **settings).fit(plain, X_val=IMAGES[40:], y_val=Y[40:])
    order = torch.Generator().manual_seed(SEED)
    train, kept = (DataLoader(each, BATCH, shuffle=True, generator=order) for each in (train, kept))
    fitted = model(made("four dimensions"), **settings).fit(train, X_val=kept)
    assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-9)
    assert_allclose(fitted.validation_scores_, expected.validation_scores_, rtol=1e-6)
    assert_allclose(fitted.predict_proba(IMAGES), expected.predict_proba(IMAGES), rtol=1e-6)


def test_a_dataset_may_be_stopped_early_by_rows_of_its_own_or_by_others():
    dataset = Items(several(), Y)
    settings = {"early_stopping": True, "scoring": "loss", "max_iter": 6}
    own = model(made("several inputs"), validation_fraction=0.3, **settings).fit(dataset)
    others = model(made("several inputs"), **settings).fit(dataset, X_val=dataset)
    for fitted in (own, others):
        assert len(fitted.validation_scores_) == fitted.n_iter_[0]
    assert_allclose(others.validation_scores_[-1], -others.history_.validation_loss.iloc[-1])


def test_a_default_tol_claims_nothing_of_a_loader():
    fitted = model(made("four dimensions"), tol=1e9).fit(loader_of())
    assert (fitted.n_iter_[0], fitted.stop_reason_, fitted.converged_) == (EPOCHS, "max_iter", False)


@pytest.mark.parametrize("settings", [{"learning_rate": "auto"}, {"max_iter": 0}, {"verbose": 1}])
def test_a_loader_is_trained_on_in_every_way(settings, capsys):
    fitted = model(made("several inputs"), **settings).fit(loader_of(several()))
    assert np.isfinite(fitted.predict_proba(several())).all() and fitted.objective_ > 0
    assert "nan" not in capsys.readouterr().out


def test_predictions_of_a_loader_are_in_its_order_and_leave_it_as_it_was():
    fitted = model(made("four dimensions")).fit(IMAGES, Y)
    loader = loader_of()
    got = fitted.predict_proba(loader)
    X = torch.cat([X for X, _ in loader])
    assert_allclose(got, fitted.predict_proba(X), rtol=1e-9)
    assert fitted.score(loader) == pytest.approx(fitted.score(IMAGES, Y))


def test_a_warm_start_goes_on_with_a_loader():
    estimator = model(made("four dimensions"), warm_start=True).fit(loader_of())
    first = estimator.loss_curve_
    assert estimator.fit(loader_of(seed=9)).loss_curve_[-1] < first[-1]


def test_batches_of_a_sampler_and_of_an_iterable_dataset_are_trained_on():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(IMAGES, Y, strict=True))

    parts = [list(range(start, min(start + BATCH, N))) for start in range(0, N, BATCH)]
    expected = model(made("four dimensions")).fit(DataLoader(Items(IMAGES, Y), batch_size=BATCH))
    stacked = [(IMAGES[part], Y[part]) for part in parts]
    for loader in (
        DataLoader(Stream(), batch_size=BATCH),
        DataLoader(Items(IMAGES, Y), batch_sampler=parts),
        DataLoader(stacked, batch_size=None),
    ):
        for classes in (None, [0, 1]):
            fitted = model(made("four dimensions")).fit(loader, classes=classes)
            assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-9)
            assert_allclose(fitted.predict_proba(IMAGES), expected.predict_proba(IMAGES), rtol=1e-9)


def test_batches_may_be_padded_to_lengths_of_their_own():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.last = nn.Embedding(20, 4, padding_idx=0), nn.Linear(4, 1)

        def forward(self, X):
            return self.last(self.words(X).sum(dim=1))

    def padded(rows):
        width = max(len(words) for words, _ in rows)
        X = torch.tensor([[*words, *[0] * (width - len(words))] for words, _ in rows])
        return X, torch.tensor([label for _, label in rows])

    texts = [
        (row[: 2 + i % 4].tolist(), int(label)) for i, (row, label) in enumerate(zip(WORDS, Y, strict=True))
    ]
    loader = DataLoader(texts, batch_size=3, collate_fn=padded)
    assert len({X.shape for X, _ in loader}) > 1
    fitted = model(Sums()).fit(loader)
    assert fitted.predict(loader).shape == (N,) and fitted.input_dtype_ == "int64"
    assert len(fitted.predict(DataLoader(texts[:5], batch_size=5, collate_fn=padded))) == 5


def test_the_global_generator_and_the_loaders_seed_are_left_alone_without_one():
    before = torch.get_rng_state()
    dataset = Items(IMAGES, Y)
    fits = [
        model(made("four dimensions"), random_state=seed).fit(DataLoader(dataset, BATCH, shuffle=True))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(fits[0].loss_curve_, fits[1].loss_curve_)
    assert not np.array_equal(fits[0].loss_curve_, fits[2].loss_curve_)


@pytest.mark.processes
@pytest.mark.parametrize("classes", [None, [0, 1]])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_of_workers_are_trained_on_like_by_a_loop_in_their_order(persistent, classes):
    settings = {"num_workers": 2, "persistent_workers": persistent}
    module, theirs = made("four dimensions"), loader_of(**settings)
    expected, trained = loader_loop(copy.deepcopy(module).double(), theirs, torch.ones(2), N, N)
    fitted = model(module).fit(loader_of(**settings), classes=classes)
    assert_allclose(fitted.loss_curve_, expected, rtol=0, atol=1e-6)
    assert_predicts_like(fitted, trained, IMAGES)
    assert_allclose(fitted.predict_proba(loader_of(**settings, seed=1)).mean(), 0.5, atol=0.2)
