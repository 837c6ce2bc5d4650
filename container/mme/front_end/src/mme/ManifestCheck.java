package mme;

import com.amazonaws.ml.mms.archive.LegacyManifest;
import com.amazonaws.ml.mms.archive.Manifest;
import com.amazonaws.ml.mms.archive.ModelException;
import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.util.JsonUtils;
import com.google.gson.JsonParseException;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;

/**
 * The manifest of a model archive, where its folder has one. MMS answers 500 to one that it cannot read, with the
 * words of a Java exception, or "Failed to parse signature.json." (MMS-9). It is looked for and read as
 * ModelArchive.load does.
 */
final class ManifestCheck {
    private static final String NAME = "MANIFEST.json";

    private ManifestCheck() {}

    /** Throws BadRequestException with what is wrong. */
    static void check(File folder) {
        File own = new File(folder, "MAR-INF/" + NAME);
        File manifest = own.exists() ? own : legacy(folder);
        if (manifest == null) {
            return; // it needs none
        }
        String wrong = manifest.equals(own) ? wrongIn(own) : wrongInLegacy(manifest);
        if (wrong != null) {
            throw new BadRequestException(
                    "The model's "
                            + folder.toPath().relativize(manifest.toPath())
                            + " is no manifest of a model archive: "
                            + wrong
                            + " Correct it, or leave it out: a model needs none.");
        }
    }

    private static String wrongIn(File file) {
        try {
            Manifest manifest = read(file, Manifest.class);
            if (manifest == null) {
                return "it is empty.";
            }
            return manifest.getModel() == null ? "it has no \"model\"." : null;
        } catch (IOException e) {
            return "it cannot be read.";
        } catch (JsonParseException e) {
            return sentence(RequestChecks.reason(e));
        } catch (StackOverflowError e) {
            return "it is nested too deeply.";
        }
    }

    /** One of MMS 0.x. */
    private static String wrongInLegacy(File file) {
        try {
            LegacyManifest manifest = read(file, LegacyManifest.class);
            if (manifest == null) {
                return "it is empty.";
            }
            manifest.migrate();
            return null;
        } catch (IOException e) {
            return "it cannot be read.";
        } catch (JsonParseException e) {
            return sentence(RequestChecks.reason(e));
        } catch (ModelException e) {
            return sentence(e.getMessage());
        } catch (NullPointerException e) {
            return "it has no \"Model\".";
        } catch (StackOverflowError e) {
            return "it is nested too deeply.";
        }
    }

    private static String sentence(String reason) {
        return reason.endsWith(".") ? reason : reason + '.';
    }

    private static <T> T read(File file, Class<T> type) throws IOException {
        try (Reader reader = new InputStreamReader(new FileInputStream(file), StandardCharsets.UTF_8)) {
            return JsonUtils.GSON.fromJson(reader, type);
        }
    }

    /** MMS also takes one that lies one folder deeper, whatever its case. */
    private static File legacy(File folder) {
        File here = new File(folder, NAME);
        if (here.exists()) {
            return here;
        }
        for (File entry : list(folder)) {
            if (!entry.isDirectory()) {
                if (entry.getName().equalsIgnoreCase(NAME)) {
                    return entry;
                }
                continue;
            }
            for (File nested : list(entry)) {
                if (nested.getName().equalsIgnoreCase(NAME)) {
                    return nested;
                }
            }
        }
        return null;
    }

    private static File[] list(File folder) {
        File[] entries = folder.listFiles();
        return entries == null ? new File[0] : entries;
    }
}
