"""Would the audit notice? Plant an error of 1 % in one term of one form at a time.

    python -m tests.benchmarks.kl_mutation [--every 1] [--only gaussian]

Every operand of a sum or difference, and every value returned, in every function of
`pyro_vae/kl/closed_forms`, of the special functions and remainders, of the reductions and of the
quadrature is multiplied by 1.01, one at a time. Then the pairs which run through that function are
audited, until one is found to be wrong. Left alone are shapes, indices and
comparisons, which are no terms, and nodes of a quadrature under `torch.arange`.
"""

import argparse
import ast
import copy
import gc
import importlib
import pkgutil
import sys
import types
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from pyro_vae import kl
from pyro_vae.kl import closed_forms
from pyro_vae.kl.audit import judge, pairs

FACTOR = 1.01
MOST = 300
BESIDES = ("remainders", "special", "reductions", "quadrature")
NO_TERMS = (ast.Compare, ast.Slice, ast.Subscript, ast.keyword)
NO_TERM_CALLS = {"range", "arange", "reshape", "expand", "unsqueeze", "eye", "broadcast_shapes"}


# reasons for people, and functions of the reductions that count dimensions and maps
NO_TERMS_INSIDE = {"why", "_transformed", "_hit", "_packed"}

# functions of the reductions that return plans, classes and the like, but no numbers
NO_NUMBERS = {
    *("_expand", "_masked", "_point", "_independent", "_half", "_relaxed"),
    *("_registered", "_simpler", "_sticks", "_marginals", "_mask_of", "_mixture"),
    *("_legal", "_odd", "_gaussian", "_student", "error"),
}

# parts that stand for themselves: no other term of their line is meant
TERMS = {"mean", "mean.squeeze(-1)", "round_off", "math.lgamma((m + 1) / 2)", "1e-300", "low"}

# owner, and a part of the source line: why no value or first derivative can depend on it
EQUIVALENT = [
    ("trapezoid", "", "ends and number of nodes of a sum that has converged"),
    ("log_sum", "w = v if", "what is kept of negligible terms"),
    ("log_sum", "w = torch.maximum", "what is kept of negligible terms"),
    ("log_sum", "mean", "v comes with mean 0"),
    ("log_sum", "mean.squeeze(-1)", "v comes with mean 0"),
    ("log_sum", "low = ", "ends of a range"),
    ("_stretched", "third", "times (r - 1)^2: second derivatives, which test_temperatures holds"),
    ("log_quadratic", "low = ", "ends of a range"),
    ("student_log_quadratic", "low = ", "ends of a range"),
    ("student_log_quadratic", "spread = ", "ends of a range"),
    ("student_log_quadratic", "small", "ends of a range"),
    ("student_log_quadratic", "trapezoid(integrand", "ends of a range"),
    ("_Quadratic.spread", "", "ends of a range"),
    ("_Quadratic.of", "off.detach()", "zero, but for its second derivative"),
    ("_Quadratic.curvature", "", "zero, but for its second derivative"),
    ("log_quadratic", "form.curvature", "zero, but for its second derivative"),
    ("student_log_quadratic", "form.curvature", "zero, but for its second derivative"),
    ("_Quadratic.value", "4 * bent", "zero, but for its second derivative"),
    ("_parts", "new_zeros", "a matrix without columns"),
    ("_wishart", "upper - lower", "only what lies below the diagonal of L^-1 (U - L) counts"),
    ("_series", "s * y + c", "all coefficients alike, and only ratios count"),
    ("digamma", "-1 / 120", "digits 10 to 16, which test_special_forms holds"),
    ("trigamma", "-1 / 30", "digits 10 to 16, which test_special_forms holds"),
    ("exp1", "60 + 1", "the start of a continued fraction, 60 steps from its value"),
    ("_bit", "d.temperature", "both temperatures alike, and only their ratio counts"),
    ("integral", "error.reshape", "the estimate of the error, which test_quadrature holds"),
    ("_only", "", "the argument of a branch that is not taken"),
    ("_where", "", "the argument of a branch that is not taken"),
    ("integral", "_IN_GRAPHS", "inside graphs only, which test_quadrature_graphs holds"),
    ("_weighed", "error", "the estimate of the error, which test_quadrature holds"),
    ("_edges", "round_off", "ends of panels, 37 lengths from a bend"),
    ("_edges", "near = ", "ends of panels"),
    ("mean_ratio", "math.lgamma((m + 1) / 2)", "0 for m = 3; test_mean_of_a_projected_normal"),
    ("_from_uniform", "rest = ", "ends of a range"),
    ("_length", "1e-300", "keeps the derivative of a root at 0 finite"),
    *(
        ("_rule", f"{end} = ", "ends of a range")
        for end in ("rest", "near", "low", "wide", "half")
    ),
    ("_rule", "low", "ends of a range"),
    ("_following", "(1 + rule.x)", "the place of a kink's panel: second derivatives only"),
]


class Mutant(NamedTuple):
    module: types.ModuleType
    owner: str  # the outermost function, as in `_Normal.entropy`
    index: int  # of the term within the module
    line: int
    term: str


class Planter(ast.NodeTransformer):
    """Lists the terms of a module, and multiplies one of them."""

    def __init__(self, target=None):
        self.target, self.terms, self.names = target, [], []

    def visit_ClassDef(self, node):
        return self._inside(node)

    def visit_FunctionDef(self, node):
        return self._inside(node)

    def _inside(self, node):
        if node.name in NO_TERMS_INSIDE:
            return node
        self.names.append(node.name)
        self.generic_visit(node)
        self.names.pop()
        return node

    def visit(self, node):
        if isinstance(node, NO_TERMS):
            return node
        if isinstance(node, ast.Call) and _name(node.func) in NO_TERM_CALLS:
            return node
        if _nothing(node):
            return node
        return super().visit(node)

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            node.left, node.right = self._term(node.left), self._term(node.right)
        return node

    def visit_Return(self, node):
        self.generic_visit(node)
        if self.names[-1] in NO_NUMBERS:
            return node
        value = node.value
        if isinstance(value, ast.Tuple):
            value.elts = [self._term(e) for e in value.elts]
        elif isinstance(value, ast.Call) and _name(value.func)[:1].isupper():
            value.args = [self._term(a) for a in value.args]
        elif value is not None and _name(value) not in ("form", "transform", "add"):
            node.value = self._term(value)
        return node

    def _term(self, node):
        if not self.names or isinstance(node, ast.Lambda) or _nothing(node):
            return node
        if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)):
            return node
        self.terms.append((".".join(self.names), node.lineno, ast.unparse(node)))
        if self.target != len(self.terms) - 1:
            return node
        return ast.copy_location(ast.BinOp(node, ast.Mult(), ast.Constant(FACTOR)), node)


def _nothing(node):
    """Whether this is 0 times something, an anchor for gradients."""
    left = getattr(node, "left", None)
    return isinstance(left, ast.Constant) and left.value == 0


def _name(node):
    return getattr(node, "attr", getattr(node, "id", ""))


def modules():
    names = [f"closed_forms.{m.name}" for m in pkgutil.iter_modules(closed_forms.__path__)]
    return [importlib.import_module(f"{kl.__name__}.{name}") for name in [*names, *BESIDES]]


def tree_of(module):
    return ast.parse(Path(module.__file__).read_text())


def mutants():
    found = []
    for module in modules():
        planter = Planter()
        planter.visit(tree_of(module))
        for index, (names, line, term) in enumerate(planter.terms):
            found.append(Mutant(module, _outermost(module, names), index, line, term))
    return found


def _outermost(module, names):
    """A function within a function belongs to the outer one, a method to its class."""
    first, *rest = names.split(".")
    inside_class = isinstance(getattr(module, first), type)
    return f"{first}.{rest[0]}" if inside_class else first


def codes(code):
    """All code objects within a code object, by qualified name."""
    found = {}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found[const.co_qualname] = const
            found.update(codes(const))
    return found


def functions():
    """All living functions of the forms, by file and qualified name."""
    files = {module.__file__ for module in modules()}
    found = defaultdict(list)
    for item in gc.get_objects():
        if type(item) is types.FunctionType and item.__code__.co_filename in files:
            found[item.__code__.co_filename, item.__code__.co_qualname].append(item)
    return found


class planted:
    """The error, for as long as the context lasts."""

    def __init__(self, mutant, living):
        tree = Planter(mutant.index).visit(copy.deepcopy(tree_of(mutant.module)))
        compiled = compile(ast.fix_missing_locations(tree), mutant.module.__file__, "exec")
        self.swaps = []
        for name, code in codes(compiled).items():
            if name == mutant.owner or name.startswith(f"{mutant.owner}.<locals>"):
                for function in living[mutant.module.__file__, name]:
                    self.swaps.append((function, function.__code__, code))

    def __enter__(self):
        for function, _, code in self.swaps:
            function.__code__ = code
        forget()

    def __exit__(self, *_):
        for function, code, _ in self.swaps:
            function.__code__ = code
        forget()


def forget():
    """Empty the caches of all functions, which would keep what was computed before."""
    for module in modules():
        for item in vars(module).values():
            if hasattr(item, "cache_clear"):
                item.cache_clear()


def served(progress=True):
    """The pairs that run through each function, cheap ones first."""
    files, through = {module.__file__ for module in modules()}, defaultdict(list)

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename in files:
            name = frame.f_code.co_qualname.partition(".<locals>")[0]
            seen.add((frame.f_code.co_filename, name))

    for pair in tqdm(pairs(), disable=not progress, desc="truths", file=sys.stderr):
        seen = set()
        forget()
        sys.setprofile(watch)
        try:
            verdict = judge(pair, kl.divergence).verdict
        finally:
            sys.setprofile(None)
        if verdict in ("right", "infinite"):
            for key in seen:
                through[key].append(pair)
    return through


def equivalent(mutant):
    """Whether the planted error can have no effect."""
    source = Path(mutant.module.__file__).read_text().splitlines()[mutant.line - 1]
    return any(
        mutant.owner == owner and (part == mutant.term if part in TERMS else part in source)
        for owner, part, _ in EQUIVALENT
    )


def run(every=1, only="", progress=True):
    """Plant all errors: noticed, not noticed, in functions never run, of no effect."""
    through, living = served(progress), functions()
    chosen = [m for m in mutants() if only in m.module.__name__][::every]
    caught, survived, idle, harmless = [], [], [], []
    for mutant in tqdm(chosen, disable=not progress, desc="mutants", file=sys.stderr):
        asked = through[mutant.module.__file__, mutant.owner]
        # hundreds of pairs run through some functions; to ask fewer can only notice less, and the
        # rare ones are those that some of the branches are for
        common = Counter((pair.q.group, pair.q.space) for pair in asked)
        asked = sorted(asked, key=lambda pair: common[pair.q.group, pair.q.space])[:MOST]
        if not asked:
            idle.append(mutant)
            continue
        with planted(mutant, living):
            found = any(
                judge(p, kl.divergence).verdict not in ("right", "infinite") for p in asked
            )
        (caught if found else harmless if equivalent(mutant) else survived).append(mutant)
    return caught, survived, idle, harmless


def main():
    """Print the share noticed and every error that was not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each n-th term")
    parser.add_argument("--only", default="", help="modules whose name contains this")
    given = parser.parse_args()
    caught, survived, idle, harmless = run(given.every, given.only)
    total = len(caught) + len(survived)
    tqdm.write(f"{len(caught)} of {total} planted errors noticed ({len(caught) / total:.1%})")
    lists = {
        "survived": survived,
        "in functions no pair runs through": idle,
        "without effect on value and gradient": harmless,
    }
    for title, items in lists.items():
        tqdm.write(f"{title}: {len(items)}")
        for m in items:
            name = m.module.__name__.rpartition(".")[2]
            tqdm.write(f"  {name}.py:{m.line} {m.owner}: {m.term}")


if __name__ == "__main__":
    main()
