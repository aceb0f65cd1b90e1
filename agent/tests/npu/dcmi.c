/* What the public DCMI reference declares, with a board of one 310B4 behind it. DCMI_MODE in the environment makes it
 * hang, fail, or answer rubbish. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int mode(const char *name) {
    const char *set = getenv("DCMI_MODE");
    return set && strcmp(set, name) == 0;
}

int dcmi_init(void) {
    if (mode("fails")) return -8005;
    return 0;
}

int dcmi_get_card_list(int *card_num, int *card_list, int list_len) {
    while (mode("hangs")) sleep(1);
    if (mode("rubbish")) { *card_num = 1 << 30; return 0; }
    if (list_len < 1) return -8001;
    *card_num = 1;
    card_list[0] = 3;
    return 0;
}

int dcmi_get_device_id_in_card(int card, int *device_max, int *mcu, int *cpu) {
    if (card != 3 && !mode("rubbish")) return -8008;
    *device_max = mode("rubbish") ? -7 : 1;
    *mcu = *cpu = -1;
    return 0;
}

struct chip { unsigned char type[32], name[32], version[32]; unsigned int cores; unsigned char npu[32]; };

int dcmi_get_device_chip_info_v2(int card, int device, struct chip *chip) {
    if (card != 3 || device != 0) return -8007;
    memset(chip, 0, sizeof *chip);
    strcpy((char *)chip->type, "Ascend");
    strcpy((char *)chip->name, "310B4");
    chip->cores = 1;
    return 0;
}

int dcmi_get_device_utilization_rate(int card, int device, int type, unsigned *percent) {
    if (type != 13) return -8255;
    *percent = 42;
    return 0;
}

int dcmi_get_device_temperature(int card, int device, int *celsius) { *celsius = 65; return 0; }

int dcmi_get_device_power_info(int card, int device, int *tenths) { return -8255; }

int dcmi_get_device_health(int card, int device, unsigned *health) { *health = 2; return 0; }

struct memory {
    unsigned long long size, available;
    unsigned int freq;
    unsigned long hugepagesize, hugepages_total, hugepages_free;
    unsigned int use;
    unsigned char reserved[60];
};

int dcmi_get_device_memory_info_v3(int card, int device, struct memory *memory) {
    if (sizeof *memory != 112) return -8001;
    memset(memory, 0, sizeof *memory);
    memory->size = 15609;
    memory->available = 11981;
    return 0;
}
