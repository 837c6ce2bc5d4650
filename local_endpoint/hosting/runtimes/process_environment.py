"""Which of a model's environment variables a process of this machine may get.

In a container a variable does what it does inside of it. A process shares this machine's files and programs: a variable
that a loader or an interpreter acts on would have it run anything. The container's own settings and SageMaker's are
passed on, and all names that mean nothing to those. Of the container's own those are left out that are folders, users
and addresses of the server's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

WHAT_ACTS_ON_THEM = {
    "the dynamic loader and the C library": (
        r"LD_\w*|DYLD_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|NIS_PATH|MALLOC_\w*|HOSTALIASES|LOCALDOMAIN"
        r"|RES_OPTIONS|RESOLV_\w*|GETCONF_DIR|TZDIR"
    ),
    "the Python interpreter": r"PYTHON\w*|VIRTUAL_ENV|__PYVENV_LAUNCHER__",
    "the Java runtime": r"_?JAVA_\w*|JDK_JAVA_OPTIONS|_JAVA_OPTIONS|CLASSPATH|JRE_HOME|JDK_HOME|IBM_JAVA_OPTIONS",
    "the shell": (
        r"PATH|HOME|SHELL|ENV|BASH\w*|SHELLOPTS|IFS|CDPATH|GLOBIGNORE|PS[0-4]|PROMPT_COMMAND|ZDOTDIR|EDITOR|VISUAL"
        r"|PAGER|BROWSER|LESS\w*|TMPDIR|TMP|TEMP"
    ),
    "another interpreter or tool": (
        r"NODE_\w*|PERL\w*|RUBY\w*|LUA_\w*|GIT_\w*|SSH_\w*|XDG_\w*|OPENSSL_\w*|SSL_CERT_\w*|AWS_CONFIG_FILE"
        r"|AWS_SHARED_CREDENTIALS_FILE|DOTNET_\w*|CORECLR_\w*|R_\w*|JULIA_\w*"
    ),
    "a library that loads further ones": (
        r"OMP_TOOL\w*|CUDA_INJECTION\w*|NVIDIA_\w*PATH|MXNET_LIBRARY_PATH|TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
        r"|ORT_DYLIB_PATH|TORCH_(?:EXTENSIONS|LIBRARY)\w*|NCCL_\w*PLUGIN|KMP_\w*LIB\w*|CUDA_\w*(?:PATH|HOME)|TRITON_\w*"
        r"|TORCH_HOME|TORCHINDUCTOR_\w*|INDUCTOR_\w*|NUMBA_\w*|HF_\w*(?:HOME|CACHE|DIR|PATH|ENDPOINT)|TRANSFORMERS_\w*CACHE|JAX_\w*|XLA_\w*"
        r"|TF_XLA_\w*|KERAS_\w*|MPL\w*|MATPLOTLIB\w*|COVERAGE_\w*|COV_CORE_\w*|JOBLIB_\w*|NLTK_\w*|DGLBACKEND|NUMEXPR_\w*DIR"
        # whatever calls itself so: HDF5_PLUGIN_PATH, OPENCV_VIDEOIO_PLUGIN_PATH, GST_PLUGIN_SCANNER, QT_PLUGIN_PATH …
        r"|\w*_PLUGINS?(?:_\w*)?|\w*_PRELOAD|\w*_(?:LIBRARY|LIB|DLL|DYLIB|MODULE)S?_(?:PATH|DIR|FILE)S?|\w*_INJECTION\w*"
        r"|\w*_CACHE_(?:DIR|PATH|HOME|ROOT)|\w*_KERNEL_CACHE\w*|\w*_STARTUP|\w*_HOOKS?|\w*KEYLOGFILE"
    ),
    "an installer or a compiler": (
        r"(?:HTTPS?|ALL|FTP|NO)_PROXY|\w+_CA_BUNDLE|\w+_CA_CERTS?|"
        r"PIP_\w*|UV_\w*|CONDA_\w*|MAMBA_\w*|POETRY_\w*|PDM_\w*|HATCH_\w*|SETUPTOOLS_\w*|DISTUTILS_\w*|PIPX_\w*|NPM_\w*"
        r"|CARGO_\w*|RUSTC?_\w*|RUSTFLAGS|GO(?:FLAGS|PATH|ROOT)|MAKE\w*|CMAKE_\w*|CC|CXX|CPP|LD|AR|NVCC\w*|\w*_?[CL]D?FLAGS"
        r"|\w*CXXFLAGS|\w*_(?:OPTS|JAVA_OPTIONS)|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|CPATH|LIBRARY_PATH|COMPILER_PATH"
        r"|GCC_EXEC_PREFIX"
    ),
}
# Of the container's documented settings (docs/settings.md) those that a model may have.
OWN_SETTINGS = frozenset(
    """
    MME_LOG_FORMAT MME_START_RETRY_S MME_WORKERS MME_PRELOAD MME_WORKER_MEMORY_LIMIT_MB MME_MEMORY_LIMIT_MB
    MME_MEMORY_RESERVE_MB MME_OVERCOMMIT MME_SLEEP_AFTER_S MME_MOST_MODELS MME_DRAIN_TIMEOUT_S MME_MANAGEMENT
    MME_MODEL_CODE MME_PASS_CREDENTIALS MME_MODEL_REQUIREMENTS MME_PACKAGES_TIMEOUT_S MME_BATCH_SIZE
    MME_MAX_BATCH_DELAY_MS MME_JOB_QUEUE_SIZE MME_AUTOSCALE MME_MIN_WORKERS MME_MAX_WORKERS MME_MAX_IDLE_TIME_S
    MME_WORKERS_PER_CORE MME_PREDICT_TIMEOUT_S MME_MODEL_LOADING_TIMEOUT_S MME_METRICS_PORT MME_METRICS_MODELS
    MME_METRICS_TARGET_MODEL MME_EMF MME_EMF_PERIOD_S MME_MXNET_FUSE MME_MAX_SAMPLES_PER_PASS
    MME_MAX_IMAGE_MEGAPIXELS
    """.split()  # noqa: SIM905
)
SERVERS_OWN = frozenset({"MME_HOST", "MME_USER", "MME_RUNTIME_DIR", "MME_MODEL_ROOTS", "MME_PACKAGES_DIR"})
_PATTERNS = {who: re.compile(pattern) for who, pattern in WHAT_ACTS_ON_THEM.items()}
# Sizes, collectors and their switches; not what makes the JVM run, load or write something.
VMARGS = "SAGEMAKER_MODEL_SERVER_VMARGS"
_SWITCHES = (
    r"Use(?!JVMCI)\w+|UnlockExperimentalVMOptions|AlwaysPreTouch|ExitOnOutOfMemoryError|CrashOnOutOfMemoryError"
    r"|DisableExplicitGC|ExplicitGCInvokesConcurrent|ParallelRefProcEnabled|TieredCompilation|ZGenerational|ZUncommit"
    r"|ScavengeBeforeFullGC|PrintCommandLineFlags|PrintGC\w*"
)
_NUMBERS = (
    r"(?:Max|Min|Initial)RAMPercentage|MaxRAM|(?:Max|Initial|Min|Soft\w*)HeapSize|(?:Max|Min)HeapFreeRatio|NewRatio|NewSize"
    r"|MaxNewSize|SurvivorRatio|MaxTenuringThreshold|(?:Max)?MetaspaceSize|CompressedClassSpaceSize|MaxDirectMemorySize"
    r"|(?:Reserved|Initial)CodeCacheSize|ThreadStackSize|\w+GCThreads|CICompilerCount|ActiveProcessorCount"
    r"|MaxGCPauseMillis|GCTimeRatio|GCTimeLimit|GCHeapFreeLimit|G1\w+|Z\w+|Shenandoah\w+|SoftRefLRUPolicyMSPerMB"
    r"|InitiatingHeapOccupancyPercent|TieredStopAtLevel|TrimNativeHeapInterval"
)
_HARMLESS_VMARG = re.compile(
    rf"-X(?:m[nsx]|ss)\d+[kKmMgG]?|-XX:[+-](?:{_SWITCHES})|-XX:(?:{_NUMBERS})=[\d.]+[kKmMgGtT%]?"
    r"|-D(?:file\.encoding|user\.(?:language|country|timezone)|java\.net\.preferIPv4Stack)=[\w.:/+-]*"
)


def refusal(environment: Mapping[str, str]) -> str | None:
    """Why a process may not have this environment, with the remedy; None where it may."""
    for name, value in environment.items():
        upper = name.upper()
        if upper.startswith("MME_") and name not in OWN_SETTINGS:
            what = "is the server's own to set" if upper in SERVERS_OWN else "is none of the container's settings"
            return (
                f"Environment variable {name} is refused: it {what} (docs/settings.md) with --runtime process. Leave "
                "it out, or use --runtime docker."
            )
        if name in OWN_SETTINGS:
            continue
        for who, pattern in _PATTERNS.items():
            if not upper.startswith("SAGEMAKER_") and pattern.fullmatch(upper):
                return (
                    f"Environment variable {name} is refused: {who} would act on it, and with --runtime process the "
                    "container is a process of this machine. Leave it out, or use --runtime docker."
                )
        if name.startswith("BASH_FUNC_") or "=" in name or "\0" in name + value or not name:
            return f"Environment variable {name!r} is refused: a process cannot have it. Leave it out."
        if name == VMARGS:
            for argument in value.split():
                if not _HARMLESS_VMARG.fullmatch(argument):
                    return (
                        f"{argument} in {VMARGS} is refused: with --runtime process only sizes, numbers of threads "
                        "and switches of memory and its collector may be given to the Java runtime. Leave it "
                        "out, or use --runtime docker."
                    )
    return None
