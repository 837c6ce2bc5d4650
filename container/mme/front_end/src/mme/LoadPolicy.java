package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import java.io.IOException;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/**
 * What this server allows: load-policy.properties in the private folder, which supervisor/server.py writes.
 *
 * <pre>
 * root.0, root.1 …     real paths of the folders below which models may be
 * root_allowed         whether such a folder may itself be a model
 * unload_hopeless      whether a model whose workers do not come back is unloaded
 * most_models          how many may be registered; 0: any number
 * autoscale            whether workers follow traffic
 * workers_fixed        whether SAGEMAKER_MODEL_SERVER_WORKERS says how many workers each model has: min_workers
 * records_targets      whether models' records get the X-Amzn-SageMaker-Target-Model of requests
 * min_workers, max_workers, max_idle_s,
 * queue_size, batch_size, batch_delay_ms, response_timeout_s, load_timeout_s, answer_timeout_s
 *                      of a model that does not say: ServingProperties; 0 s: the response timeout is enough
 * </pre>
 *
 * Names and folders are looked at as zygote/load_policy.py does, whose word counts where a worker is started:
 * without one (initial_workers=0) nobody else asks.
 */
final class LoadPolicy {
    private static final Path FILE = Path.of(Agent.PRIVATE_FOLDER, "load-policy.properties");
    private static final int LONGEST_NAME = 255; // characters, as load_policy.LONGEST_NAME

    final boolean unloadHopeless;
    final int mostModels;
    final boolean autoscale;
    final boolean areWorkersFixed;
    final int minWorkers;
    final int maxWorkers;
    final int maxIdleS;
    final boolean recordsTargets;
    final int queueSize;
    final int batchSize;
    final int batchDelayMs;
    final int responseTimeoutS;
    final int loadTimeoutS;
    final int answerTimeoutS;
    private final boolean rootAllowed;
    private final List<Path> roots = new ArrayList<>();

    private LoadPolicy(Properties properties) {
        unloadHopeless = Boolean.parseBoolean(properties.getProperty("unload_hopeless"));
        recordsTargets = Boolean.parseBoolean(properties.getProperty("records_targets"));
        rootAllowed = Boolean.parseBoolean(properties.getProperty("root_allowed"));
        mostModels = number(properties, "most_models");
        autoscale = Boolean.parseBoolean(properties.getProperty("autoscale"));
        areWorkersFixed = Boolean.parseBoolean(properties.getProperty("workers_fixed"));
        minWorkers = number(properties, "min_workers");
        maxWorkers = number(properties, "max_workers");
        maxIdleS = number(properties, "max_idle_s");
        queueSize = number(properties, "queue_size");
        batchSize = number(properties, "batch_size");
        batchDelayMs = number(properties, "batch_delay_ms");
        responseTimeoutS = number(properties, "response_timeout_s");
        loadTimeoutS = number(properties, "load_timeout_s");
        answerTimeoutS = number(properties, "answer_timeout_s");
        for (int i = 0; properties.getProperty("root." + i) != null; i++) {
            roots.add(Path.of(properties.getProperty("root." + i)));
        }
    }

    private static int number(Properties properties, String name) {
        return Integer.parseInt(properties.getProperty(name));
    }

    static LoadPolicy read() throws IOException {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(FILE, StandardCharsets.ISO_8859_1)) {
            properties.load(reader);
        }
        return new LoadPolicy(properties);
    }

    /** Throws BadRequestException (400) for a name that no model may have. */
    void checkName(String name) {
        int length = name.codePointCount(0, name.length());
        if (length < 1 || length > LONGEST_NAME) {
            throw new BadRequestException(
                    "The model's name has " + length + " characters; 1 to " + LONGEST_NAME + " are allowed.");
        }
        if (!name.codePoints().allMatch(LoadPolicy::isPrintable)) {
            throw new BadRequestException("The model's name has characters that cannot be printed.");
        }
        if (name.contains("/") || name.contains("..")) {
            throw new BadRequestException("The model's name has '/' or '..' in it.");
        }
    }

    /** Throws BadRequestException (400) for a folder that is not below a root, with symlinks resolved. */
    void checkFolder(Path folder) {
        try {
            Path real = folder.toRealPath();
            for (Path root : roots) {
                if (real.startsWith(root) && (rootAllowed || !real.equals(root))) {
                    return;
                }
            }
        } catch (IOException e) {
            // it has vanished since
        }
        throw new BadRequestException("The model's folder is not below a folder that models may be loaded from.");
    }

    /** Whether the model is one of the server's own: supervisor/dry_run.py. */
    boolean isDryRun(Path folder) {
        try {
            return folder.toRealPath().startsWith(Path.of(Agent.PRIVATE_FOLDER).toRealPath().resolve("dry-run"));
        } catch (IOException e) {
            return false; // it has vanished since
        }
    }

    /** As str.isprintable of Python. */
    private static boolean isPrintable(int character) {
        switch (Character.getType(character)) {
            case Character.CONTROL:
            case Character.FORMAT:
            case Character.SURROGATE:
            case Character.PRIVATE_USE:
            case Character.UNASSIGNED:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return false;
            case Character.SPACE_SEPARATOR:
                return character == ' ';
            default:
                return true;
        }
    }
}
